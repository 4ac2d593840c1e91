"""Textual inversions that travel inside a picture, as AUTOMATIC1111 writes them.

The content is JSON in which a tensor is `{"TORCHTENSOR": [numbers]}`. It lies

- in a PNG's text `sd-ti-embedding`, in base64; or
- in the pixels, so that it survives re-encoding without loss: beside the picture, left and right of
  a black column, stands a block of noise. The low four bits of the left block's bytes are the low, those
  of the right one the high halves of the bytes of the deflated JSON, each block hidden by the low bits of
  a linear congruential generator.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

PICTURES = (".png", ".webp")

_TEXT = "sd-ti-embedding"
_TENSOR = "TORCHTENSOR"
_HALF = np.uint8(0x0F)
_MAX_PIXELS = 2**24
_MAX_JSON = 2**27

Bytes = NDArray[np.uint8]


def read_picture(path: Path) -> Any:
    """What the picture carries: a dictionary as in a .pt file.

    Raises:
        ValueError: it carries nothing, or it is damaged or too large.
        OSError: it is no picture.
    """
    with Image.open(path) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            raise ValueError("it is too large a picture")
        picture.load()
        text = picture.info.get(_TEXT)
        content = base64.b64decode(text) if isinstance(text, str) else _from_pixels(picture)
    return json.loads(content, object_hook=_as_tensor)


def _as_tensor(value: dict[str, Any]) -> Any:
    return torch.tensor(value[_TENSOR]) if _TENSOR in value else value


def _from_pixels(picture: Image.Image) -> bytes:
    halves: Bytes = _cropped(np.asarray(picture.convert("RGB"))) & _HALF
    (black,) = np.where(halves.sum(axis=(0, 2)) == 0)
    if len(black) < 2:
        raise ValueError("it is a picture with no embedding inside")
    low, high = _shown(halves[:, : black[0]]), _shown(halves[:, black[-1] + 1 :])
    if low.shape != high.shape:
        raise ValueError("it is a picture with no embedding inside")
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress((high << 4 | low).tobytes(), _MAX_JSON)
    except zlib.error as error:
        raise ValueError("it is a picture with no embedding inside") from error
    if not unpacking.eof:
        raise ValueError("the embedding inside is cut short or too large")
    return content


def _cropped(pixels: Bytes) -> Bytes:
    """Without the frame around the pixels that have no black in any channel."""
    bright: NDArray[np.bool_] = np.all(pixels > 0, axis=2)
    rows, columns = np.where(bright.any(axis=1))[0], np.where(bright.any(axis=0))[0]
    if not len(rows):
        raise ValueError("it is a picture with no embedding inside")
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _shown(block: Bytes) -> Bytes:
    """A block of half bytes, (rows, columns, 3), no longer hidden."""
    state = 0
    mask = np.empty(block.size, dtype=np.uint8)
    for index in range(block.size):
        state = (1664525 * state + 1013904223) % 2**32
        mask[index] = state % 255
    shown: Bytes = block ^ (mask & _HALF).reshape(block.shape)
    return shown
