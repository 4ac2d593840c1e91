"""Colour correction: a picture is given the colours of another and keeps its own luminosity."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Levels = NDArray[np.uint8]
Values = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])


def lab(image: Image.Image) -> Levels:
    """(height, width, 3): L, a and b of an RGB picture in OpenCV's 8-bit form."""
    return _levels(cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2LAB))


def correct(image: Image.Image, target: Levels) -> Image.Image:
    """Match each channel's histogram in Lab to the target's, then restore the picture's luminosity.

    Args:
        image: RGB.
        target: `lab` of the picture whose colours are wanted, of any size.
    """
    source = lab(image)
    matched = np.stack([_matched(source[..., c], target[..., c]) for c in range(3)], axis=-1)
    colours = _levels(cv2.cvtColor(matched, cv2.COLOR_LAB2RGB))
    return Image.fromarray(_with_luminosity(colours, np.asarray(image)))


def _levels(array: NDArray[Any]) -> Levels:
    return array.astype(np.uint8, copy=False)


def _matched(source: Levels, target: Levels) -> Levels:
    """Levels of `source` moved so that their distribution is the target's; fractions are cut off."""
    counts = np.bincount(source.ravel(), minlength=256)
    target_counts = np.bincount(target.ravel(), minlength=256)
    present = np.nonzero(target_counts)[0]
    quantiles = np.cumsum(counts) / source.size
    target_quantiles = np.cumsum(target_counts[present]) / target.size
    moved = np.interp(quantiles, target_quantiles, present)
    return moved.astype(np.uint8)[source]


def _with_luminosity(colours: Levels, luminosity: Levels) -> Levels:
    """The W3C's blend mode "luminosity" with BT.601 weights; fractions are cut off."""
    result = colours / 255.0
    result += (_luma(luminosity / 255.0) - _luma(result))[..., None]
    return _levels(np.clip(_into_gamut(result), 0, 1) * 255)


def _luma(colours: Values) -> Values:
    red, green, blue = (colours[..., c] * _LUMA[c] for c in range(3))
    result: Values = red + green + blue
    return result


def _into_gamut(colours: Values) -> Values:
    """Move colours outside 0..1 towards the grey of their luminosity until they are inside."""
    grey = _luma(colours)[..., None]
    low, high = colours.min(axis=-1, keepdims=True), colours.max(axis=-1, keepdims=True)
    for limit, extreme, is_outside in ((0.0, low, low < 0), (1.0, high, high > 1)):
        moved = (colours - grey) * (limit - grey)
        np.divide(moved, extreme - grey, out=moved, where=is_outside)
        colours = np.where(is_outside, grey + moved, colours)
    return colours
