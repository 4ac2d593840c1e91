"""img2img, inpainting and hires fix with the demo checkpoint, read off the pixels."""

from dataclasses import replace
from itertools import pairwise
from operator import eq

import numpy as np
import pytest
from classify import classify, nearest_colour
from PIL import Image, ImageDraw

from sdserver.images.img2img import Preparation, prepare
from sdserver.images.pictures import to_picture
from tests.demo.conftest import SIDE, Studio, distance, hires, img2img, scene, txt2img

SEEDS = range(4)
STRENGTHS = (0.0, 0.15, 0.3, 1.0)
CHANGED = "a blue square on a yellow background"
ByStrength = dict[float, list[Image.Image]]
ASKED = ("a red circle on a white background", "a yellow heart on a blue background")


@pytest.fixture(scope="module")
def by_strength(studio: Studio) -> ByStrength:
    """A red circle on white as a start for something else, by strength; one picture per seed."""
    start = scene("circle", "red", "white")
    jobs = [img2img(start, CHANGED, seed, strength) for strength in STRENGTHS for seed in SEEDS]
    pictures = studio.pictures(jobs)
    count = len(SEEDS)
    return {strength: pictures[k * count :][:count] for k, strength in enumerate(STRENGTHS)}


def readings(pictures: list[Image.Image]) -> list[tuple[str | None, str | None, str]]:
    return [(seen.shape, seen.colour, seen.background) for seen in map(classify, pictures)]


def test_the_stronger_the_farther_from_the_initial_picture(by_strength: ByStrength) -> None:
    start = scene("circle", "red", "white")
    means = [np.mean([distance(start, each) for each in by_strength[strength]]) for strength in STRENGTHS]
    assert all(one < other for one, other in pairwise(means))
    assert means[0] < 12
    assert means[-1] > 50


def test_a_low_strength_keeps_what_the_picture_shows(by_strength: ByStrength) -> None:
    assert readings(by_strength[0.0]).count(("circle", "red", "white")) == len(SEEDS)
    places = [(shape, background) for shape, _, background in readings(by_strength[0.15])]
    assert places.count(("circle", "white")) >= 3


def test_a_high_strength_shows_what_the_prompt_says(by_strength: ByStrength) -> None:
    assert readings(by_strength[1.0]).count(("square", "blue", "yellow")) >= 3


def test_inpainting_paints_the_mask_and_leaves_the_rest_exactly_as_it_was(studio: Studio) -> None:
    start = scene("circle", "red", "white")
    mask = Image.new("L", start.size, 0)
    ImageDraw.Draw(mask).rectangle((24, 24, 103, 103), fill=255)
    wanted = Preparation(
        SIDE, SIDE, mask=mask, mask_blur_x=0, mask_blur_y=0, only_masked=False, content="latent noise"
    )
    prepared = prepare(start, wanted)
    text = "a green circle on a white background"
    jobs = [replace(img2img(start, text, s, 1.0), init=prepared.init, mask=prepared.mask) for s in SEEDS]
    results = [
        np.asarray(Image.frombytes("RGB", (made.width, made.height), made.pixels))
        for made in (prepared.finish.apply(to_picture(raw)) for raw in studio.pictures(jobs))
    ]
    kept = np.asarray(mask) == 0
    for result in results:
        assert (result[kept] == np.asarray(start)[kept]).all()
    colours = [nearest_colour(np.median(result[56:72, 56:72].reshape(-1, 3), axis=0)) for result in results]
    assert colours.count("green") >= 3


@pytest.mark.parametrize(("upscaler", "strength"), [("Latent", 0.55), ("Lanczos", 0.4)])
def test_hires_fix_shows_the_same_scene_larger(studio: Studio, upscaler: str, strength: float) -> None:
    firsts = [txt2img(text, seed) for text in ASKED for seed in SEEDS[:2]]
    pictures = studio.pictures([*firsts, *(hires(job, 1.5, upscaler, strength) for job in firsts)])
    small, large = pictures[: len(firsts)], pictures[len(firsts) :]
    assert {picture.size for picture in large} == {(192, 192)}
    assert sum(map(eq, readings(small), readings(large))) >= 3
    near = [distance(one.resize((192, 192)), other) for one, other in zip(small, large, strict=True)]
    far = [distance(one.resize((192, 192)), large[0]) for one in small[2:]]
    assert np.mean(near) < np.mean(far) / 2
