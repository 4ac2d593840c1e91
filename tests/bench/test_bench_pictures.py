"""Only real pictures count."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.mix import Asked
from bench.pictures import BadAnswer, difference, picture_in

ASKED = Asked("", "", 1, "Euler", 7.0, 4, 2, seed=5)
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def answer(data: bytes, seed: int = 5, count: int = 1, **changed: Any) -> bytes:
    fields = {"images": [base64.b64encode(data).decode()] * count, "info": json.dumps({"seed": seed})}
    return json.dumps(fields | changed).encode()


def test_pixels_of_a_good_answer() -> None:
    assert (picture_in(200, answer(png(PIXELS)), ASKED) == PIXELS).all()


@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (503, answer(png(PIXELS)), "status 503"),
        (200, b"{", "not one picture"),
        (200, b"[]", "not one picture"),
        (200, answer(png(PIXELS), count=2), "not one picture"),
        (200, answer(png(PIXELS), images=["*"]), "not one picture"),
        (200, answer(png(PIXELS), info="[]"), "another seed"),
        (200, answer(png(PIXELS), seed=6), "another seed"),
        (200, answer(png(PIXELS)[:50]), "no whole PNG"),
        (200, answer(png(PIXELS)[:-12]), "no whole PNG"),
        (200, answer(png(PIXELS, "JPEG")), "no whole PNG"),
        (200, answer(png(PIXELS[:, :3])), "a picture of 3x2"),
        (200, answer(png(np.full_like(PIXELS, 7))), "blank"),
    ],
)
def test_everything_else_is_bad(status: int, content: bytes, reason: str) -> None:
    with pytest.raises(BadAnswer, match=reason):
        picture_in(status, content, ASKED)


def test_difference() -> None:
    other = PIXELS.copy()
    other[0, 0, 0] += 2
    other[1, 3, 1] -= 3
    apart = difference({1: PIXELS, 2: PIXELS}, {2: other, 1: PIXELS})
    assert (apart.equal, apart.largest, apart.within) == (0.5, 3, 15 / 16)


def test_difference_needs_counterparts() -> None:
    for others in ({}, {2: PIXELS}):
        with pytest.raises(ValueError, match="counterpart"):
            difference({1: PIXELS}, others)
