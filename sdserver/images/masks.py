"""Masks of pictures: mode L, 255 where to paint."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from sdserver.errors import InvalidField
from sdserver.images.resize import scaled

ALPHA_THRESHOLD = 128
MAX_BLUR_WORK = 5 * 10**9
"""Pixels times standard deviation: about ten seconds."""


class Box(NamedTuple):
    """A rectangle of pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top


def from_picture(image: Image.Image, *, is_rounded: bool) -> Image.Image:
    """The mask that a client's picture means: its transparency if it has any, else its brightness.

    Args:
        image: of any mode; only RGBA can be transparent.
        is_rounded: transparency becomes 0 or 255. Brightness is taken as it is either way.
    """
    if image.mode != "RGBA" or image.getchannel("A").getextrema() == (255, 255):
        return image.convert("L")
    alpha = image.getchannel("A")
    return alpha.point(lambda value: 255 * (value > ALPHA_THRESHOLD)) if is_rounded else alpha


def invert(mask: Image.Image) -> Image.Image:
    """255 becomes 0."""
    return ImageOps.invert(mask)


def blur(mask: Image.Image, x: int, y: int) -> Image.Image:
    """Gaussian blur with a standard deviation of `x` and `y` pixels, cut off at 2.5 of them; 0 for none.

    Values are rounded after each direction, by OpenCV's fixed-point arithmetic.

    Raises:
        InvalidField: more than can be done in reasonable time for a mask of this size.
    """
    most = MAX_BLUR_WORK // (mask.width * mask.height)
    if max(x, 0) + max(y, 0) > most:
        size = f"{mask.width:,} x {mask.height:,}"
        message = f"A mask of {size} pixels can be blurred by at most {most // 2:,} pixels."
        raise InvalidField("mask_blur", message)
    levels = np.asarray(mask)
    if x > 0:
        levels = cv2.GaussianBlur(levels, (_kernel(x), 1), x).astype(np.uint8)
    if y > 0:
        levels = cv2.GaussianBlur(levels, (1, _kernel(y)), y).astype(np.uint8)
    return Image.fromarray(levels)


def _kernel(sigma: int) -> int:
    return 2 * int(2.5 * sigma + 0.5) + 1


def doubled(mask: Image.Image) -> Image.Image:
    """Twice the values, at most 255: what of the original is covered where a mask fades out."""
    return mask.point(lambda value: min(2 * value, 255))


def crop_region(mask: Image.Image, padding: int, width: int, height: int) -> Box | None:
    """The part of the picture to be painted alone, None if nothing is masked.

    Args:
        mask: of any size.
        padding: pixels added around what is masked.
        width: of the pass; the region is widened to the pass's proportions as far as the mask allows.
        height: of the pass.

    Raises:
        InvalidField: a negative padding leaves nothing.
    """
    found = mask.getbbox()
    if found is None:
        return None
    left, top, right, bottom = found
    padded = Box(
        max(left - padding, 0),
        max(top - padding, 0),
        min(right + padding, mask.width),
        min(bottom + padding, mask.height),
    )
    if min(padded.size) <= 0:
        raise InvalidField("inpaint_full_res_padding", "The padding leaves nothing of the masked area.")
    return _expanded(padded, width / height, mask.size)


def _expanded(box: Box, proportion: float, limits: tuple[int, int]) -> Box:
    width, height = box.size
    if width / height > proportion:
        top, bottom = _stretched(box.top, box.bottom, int(width / proportion - height), limits[1])
        return box._replace(top=top, bottom=bottom)
    left, right = _stretched(box.left, box.right, int(height * proportion - width), limits[0])
    return box._replace(left=left, right=right)


def _stretched(start: int, end: int, extra: int, limit: int) -> tuple[int, int]:
    """Longer by `extra` on both sides, moved inside 0..limit, and cut off if still too long."""
    start -= extra // 2
    end += extra - extra // 2
    over = max(end - limit, 0)
    start, end = start - over, end - over
    under = max(-start, 0)
    return start + under, min(end + under, limit)


def latent(mask: Image.Image, width: int, height: int) -> bytes:
    """The mask for a latent of the pass's `width` and `height`, 8 pixels a value: bicubic, not rounded."""
    return scaled(mask, width // 8, height // 8, Image.Resampling.BICUBIC).tobytes()
