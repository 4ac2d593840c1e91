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
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ENDINGS: Final = (".png", ".webp")

_PREVIEW = ".preview"
_TEXT = "sd-ti-embedding"
_TENSOR = "TORCHTENSOR"
_HALF = np.uint8(0x0F)
_MAX_PIXELS = 2**24
_MAX_JSON = 2**27
_BROKEN = (SyntaxError, EOFError, KeyError, IndexError, struct.error, Image.DecompressionBombError)

Bytes = NDArray[np.uint8]


def is_preview(path: Path) -> bool:
    """Whether the file shows what another one is like, by its name: `<name>.preview.png`."""
    return Path(path.stem).suffix.lower() == _PREVIEW


def read_carried(path: Path, tensor: Callable[[Any], Any]) -> Mapping[str, Any] | None:
    """What a picture carries: a dictionary as in a .pt file; None if it is only a picture.

    Args:
        path: of the picture.
        tensor: makes the value of a tensor from its nested lists of numbers.

    Raises:
        ValueError: what it carries is damaged, or it is too large.
        OSError: it is no picture.
    """
    try:
        content = _content(path)
        if content is None:
            return None
        carried = json.loads(
            content, object_hook=lambda value: tensor(value[_TENSOR]) if _TENSOR in value else value
        )
    except _BROKEN as error:
        raise ValueError("it is a damaged picture") from error
    except RecursionError as error:
        raise ValueError("the embedding inside is nested too deep") from error
    if not isinstance(carried, Mapping):
        raise ValueError("the embedding inside is no dictionary")
    return carried


def _content(path: Path) -> bytes | None:
    """The JSON inside; the pixels are looked at only if no text holds it."""
    with Image.open(path, formats=("PNG", "WEBP")) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            raise ValueError("it is too large a picture")
        text = picture.info.get(_TEXT)
        if not isinstance(text, str):
            picture.load()  # A PNG's texts may stand behind its pixels.
            text = picture.info.get(_TEXT)
        return base64.b64decode(text) if isinstance(text, str) else _from_pixels(picture)


def _from_pixels(picture: Image.Image) -> bytes | None:
    halves: Bytes = _cropped(np.asarray(picture.convert("RGB"))) & _HALF
    (black,) = np.where(halves.sum(axis=(0, 2)) == 0)
    if len(black) < 2:
        return None
    low, high = halves[:, : black[0]], halves[:, black[-1] + 1 :]
    if low.shape != high.shape or not low.size:
        return None
    hidden = (high << 4 | low).ravel()
    mask = _mask(hidden.size)
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress((hidden ^ (mask << 4 | mask)).tobytes(), _MAX_JSON)
    except zlib.error:
        return None
    if not unpacking.eof:
        raise ValueError("the embedding inside is cut short or too large")
    return content


def _cropped(pixels: Bytes) -> Bytes:
    """Without the frame around the pixels that have no black in any channel."""
    bright: NDArray[np.bool_] = np.all(pixels > 0, axis=2)
    rows, columns = np.where(bright.any(axis=1))[0], np.where(bright.any(axis=0))[0]
    if not len(rows):
        return pixels[:0, :0]
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _mask(count: int) -> Bytes:
    """Half bytes that hide a block: x' = 1664525 x + 1013904223 modulo 2**32, of which the remainder by 255.

    From 0 the n-th number is the increment times the sum of the multiplier's first n powers; arithmetic
    of 32 bits gives that modulo 2**32.
    """
    powers = np.full(count, 1664525, np.uint32)
    powers[:1] = 1
    sums = np.cumsum(np.cumprod(powers, dtype=np.uint32), dtype=np.uint32)
    mask: Bytes = (sums * np.uint32(1013904223) % np.uint32(255)).astype(np.uint8) & _HALF
    return mask
