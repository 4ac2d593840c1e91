"""What a server answered: decoded and checked, so that only real pictures count."""

import base64
import binascii
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench.mix import Asked


class BadAnswer(Exception):
    """An answer that is no picture of what was asked for."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far pictures of the same requests lie apart.

    Attributes:
        equal: share of the pictures that are equal to the last bit.
        largest: of all channels' differences, 0 to 255.
        within: share of the pixels that differ by at most 2 in every channel, over all pictures.
    """

    equal: float
    largest: int
    within: float


def picture_in(status: int, content: bytes, asked: Asked) -> np.ndarray:
    """The pixels (height, width, 3) of an answer's picture.

    Raises:
        BadAnswer: the status is not 200, there is not one picture of the size and seed asked for, it is
            no whole PNG, or it shows the same colour everywhere.
    """
    if status != 200:
        raise BadAnswer(f"status {status}")
    try:
        answer = json.loads(content)
        images, info = answer["images"], json.loads(answer["info"])
        (encoded,) = images
        data = base64.b64decode(encoded, validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise BadAnswer("not one picture in AUTOMATIC1111's form") from error
    if not isinstance(info, dict) or info.get("seed") != asked.seed:
        raise BadAnswer("another seed than asked for")
    pixels = _decoded(data)
    if pixels.shape != (asked.height, asked.width, 3):
        raise BadAnswer(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels")
    if (pixels == pixels[0, 0]).all():
        raise BadAnswer("a blank picture")
    return pixels


def _decoded(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.verify()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadAnswer("no whole PNG") from error


def difference(ones: dict[int, np.ndarray], others: dict[int, np.ndarray]) -> Difference:
    """Compare pictures by their seeds, which must be the same on both sides.

    Raises:
        ValueError: they are not, or there are none.
    """
    if not ones or ones.keys() != others.keys():
        raise ValueError("There are pictures without a counterpart.")
    apart: list[Any] = [np.abs(ones[seed].astype(int) - others[seed].astype(int)) for seed in ones]
    near = [(each.max(axis=2) <= 2).mean() for each in apart]
    return Difference(
        equal=sum(not each.any() for each in apart) / len(apart),
        largest=max(int(each.max()) for each in apart),
        within=float(np.mean(near)),
    )
