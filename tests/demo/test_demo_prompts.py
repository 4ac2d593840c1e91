"""Negative prompts and emphasis with the demo checkpoint, read off the pixels."""

import numpy as np
from classify import classify
from PIL import Image

from tests.demo.conftest import Studio, txt2img

SEEDS = range(6)


def brightness_of_ground(picture: Image.Image) -> float:
    """The mean brightness, 0 to 255, of the outermost pixels."""
    levels = np.asarray(picture.convert("L")).astype(float)
    return float(np.concatenate([levels[:4].ravel(), levels[-4:].ravel()]).mean())


def test_a_negative_prompt_takes_away_what_it_names(studio: Studio) -> None:
    jobs = [txt2img("a circle", seed, words) for words in ("", "a white background") for seed in SEEDS]
    pictures = studio.pictures(jobs)
    left_open, without_white = pictures[: len(SEEDS)], pictures[len(SEEDS) :]
    bright, dark = (np.mean(list(map(brightness_of_ground, some))) for some in (left_open, without_white))
    assert dark < bright - 20
    assert "white" not in [classify(picture).background for picture in without_white]


def test_of_two_colours_the_emphasised_one_wins(studio: Studio) -> None:
    texts = ("a (red:1.6) and (blue:0.4) circle", "a (red:0.4) and (blue:1.6) circle")
    jobs = [txt2img(f"{text} on a white background", seed) for text in texts for seed in SEEDS]
    colours = [classify(picture).colour for picture in studio.pictures(jobs)]
    assert colours[: len(SEEDS)].count("red") >= 4
    assert colours[len(SEEDS) :].count("blue") >= 4
