"""Which pixels soft inpainting takes from the original, as AUTOMATIC1111's script of that name finds them.

Where a latent has hardly changed, the original's pixels are kept, whatever the mask said.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sdserver.images.resize import FIT, resize
from sdserver.jobs.job import SoftInpainting

CELL: Final = 8
REACH: Final = 2
"""Cells that the filter looks at in each direction."""
DEVIATION: Final = 1.5
MIN_WEIGHT: Final = 1.0
"""Of the values that a filtered one is the mean of."""
BLUR: Final = 4
_ALMOST_ONE: Final = 1.00001

Plane = NDArray[np.float32]
Wide = NDArray[np.float64]


def changed(distance: Plane, paint: Plane, soft: SoftInpainting) -> bytes:
    """How much of each cell's picture is new, 0 to 255 a cell.

    Args:
        distance: (h, w): of the painted latent from the one that was begun with.
        paint: (h, w): the mask, 1 where to paint.
        soft: the job's.
    """
    bias = 1 - np.clip(paint, 0, 1) ** np.float32(soft.scale / 2)
    bias = 0.5 * (1 - soft.mask_influence) + bias * soft.mask_influence
    half = soft.threshold * (bias / (_ALMOST_ONE - bias))
    found = _filtered(_filtered(distance, 0.9, 1.0), 0.25, 0.75)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        kept = 1 / (1 + (found / half) ** soft.contrast)
    new = 1 - _smootherstep(np.nan_to_num(kept, nan=1.0))
    return np.asarray(255.0 * new).astype(np.uint8).tobytes()


def soft_mask(levels: bytes, painted: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """The mask, L, 255 where the picture is new.

    Args:
        levels: of `changed`.
        painted: width and height of the painted picture.
        size: width and height wanted.
    """
    mask = Image.frombytes("L", (painted[0] // CELL, painted[1] // CELL), levels)
    return resize(mask, FIT, *size).filter(ImageFilter.GaussianBlur(BLUR))


def _smootherstep(x: Plane) -> Plane:
    return x**3 * (x * (6 * x - 15) + 10)


def _kernel() -> Wide:
    """Weights (25,) of the cells around one: a Gaussian that is lowered to reach 0 beyond them."""
    offsets = np.arange(-REACH, REACH + 1, dtype=np.float64)
    squares = offsets[:, None] ** 2 + offsets[None, :] ** 2
    end = np.exp(-((REACH + 1) ** 2) / DEVIATION**2)
    weights: Wide = np.maximum((np.exp(-squares / DEVIATION**2) - end) / (1 - end), 0)
    return weights.reshape(-1)


def _filtered(values: Plane, low: float, high: float) -> Plane:
    """For each cell the weighted mean of those values around it that are between two quantiles.

    The quantiles move apart, or away from an end, until what is between them weighs enough.
    """
    around = _windows(values.astype(np.float64))
    weights = _windows(np.ones(values.shape)) * _kernel()
    order = np.argsort(around, axis=-1, kind="stable")
    around, weights = (np.take_along_axis(each, order, axis=-1) for each in (around, weights))
    ends = weights.cumsum(axis=-1)
    starts, total = ends - weights, ends[..., -1:]
    first, last = total * low, total * high
    centre, is_narrow = (first + last) / 2, last - first < MIN_WEIGHT
    shifted = np.maximum(np.minimum(centre - MIN_WEIGHT / 2, total - MIN_WEIGHT), 0)
    first = np.where(is_narrow, shifted, first)
    last = np.where(is_narrow, shifted + MIN_WEIGHT, last)
    shares = np.clip(np.minimum(last, ends) - np.maximum(first, starts), 0, None)
    result = (around * shares).sum(axis=-1) / shares.sum(axis=-1)
    return np.asarray(result, dtype=np.float32)


def _windows(values: Wide) -> Wide:
    """(h, w, 25): each cell with those around it, 0 outside."""
    side = 2 * REACH + 1
    padded = np.pad(values, REACH)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return np.asarray(windows.reshape(*values.shape, side * side))
