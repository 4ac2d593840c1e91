"""The classifier that judges the demo checkpoint, judged on pictures whose content is known."""

import random

import numpy as np
import pytest
from classify import classify, nearest_colour
from PIL import Image, ImageFilter
from scenes import COLOURS, SHAPES, single_shape
from scenes import draw as draw_scene


def wanted(scene):
    return scene.fact("shape"), scene.fact("colour"), scene.fact("background")


def read(picture):
    reading = classify(picture)
    return reading.shape, reading.colour, reading.background


def test_it_reads_every_drawn_scene():
    rng = random.Random(11)
    scenes = [single_shape(rng, held_out=k % 2 == 0) for k in range(150)]
    wrong = [scene.caption for scene in scenes if read(draw_scene(scene, 128, 128, 2)) != wanted(scene)]
    assert wrong == []
    assert {scene.fact("shape") for scene in scenes} == set(SHAPES)


@pytest.mark.parametrize("size", [64, 256])
def test_it_reads_other_sizes(size):
    rng = random.Random(12)
    scenes = [single_shape(rng) for _ in range(40)]
    right = sum(read(draw_scene(scene, size, size, 3)) == wanted(scene) for scene in scenes)
    assert right >= 39


def test_it_forgives_soft_edges_and_noise():
    rng, noise = random.Random(13), np.random.default_rng(13)
    right = 0
    for _ in range(60):
        scene = single_shape(rng)
        soft = draw_scene(scene, 128, 128, 2).filter(ImageFilter.GaussianBlur(1.2))
        pixels = np.asarray(soft).astype(float) + noise.normal(0, 6, (128, 128, 3))
        right += read(Image.fromarray(pixels.clip(0, 255).astype(np.uint8))) == wanted(scene)
    assert right >= 57


def test_an_empty_picture_shows_nothing():
    assert read(Image.new("RGB", (128, 128), COLOURS["blue"])) == (None, None, "blue")


def test_a_blob_is_no_star():
    blob = Image.new("RGB", (128, 128), (250, 250, 250))
    blob.paste((220, 25, 30), (30, 30, 100, 100))
    assert read(blob) == ("square", "red", "white")


@pytest.mark.parametrize("name", COLOURS)
def test_every_colour_is_nearest_to_itself_when_a_little_off(name):
    rng = random.Random(name)
    for _ in range(20):
        off = np.array([min(255, max(0, c + rng.randint(-10, 10))) for c in COLOURS[name]])
        assert nearest_colour(off) == name
