"""The demo checkpoint does what its captions say, read off the pixels of fixed seeds.

Its accuracy over 200 unseen captions is measured by tools/demo_checkpoint/measure.py; here a few of
them guard the whole way from words to pixels: tokenizer, text encoder, UNet, samplers, VAE, layout.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from classify import classify
from measure import CAPTION_SEED, held_out
from render import Recipe, render

DEMO = Path(__file__).parents[2] / "models" / "Stable-diffusion" / "demo.safetensors"
RECIPE = Recipe(128, 128, 15, 5.0, "DPM++ 2M")
COUNT = 16


@pytest.fixture(scope="module")
def read():
    captions = held_out(COUNT, CAPTION_SEED)
    pictures = render(DEMO, [caption for caption, _ in captions], range(COUNT), RECIPE)
    return [(asked, classify(picture)) for (_, asked), picture in zip(captions, pictures, strict=True)]


def difference(one, other):
    """The largest difference of two pictures, in grey levels."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def test_unseen_captions_get_their_shape(read):
    assert sum(asked[0] == seen.shape for asked, seen in read) >= 13


def test_unseen_captions_get_their_colour(read):
    assert sum(asked[1] == seen.colour for asked, seen in read) >= 14


def test_unseen_captions_get_their_background(read):
    assert sum(asked[2] == seen.background for asked, seen in read) >= 14


def test_a_seed_gives_its_picture_again_and_another_seed_another():
    caption = "a red circle on a blue background"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, a row's place in its batch changes last bits
    try:
        one, again, other = render(DEMO, [caption] * 3, [7, 7, 8], RECIPE)
    finally:
        torch.set_num_threads(threads)
    assert one.tobytes() == again.tobytes()
    assert difference(one, other) > 50
