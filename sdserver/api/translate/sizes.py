"""Sizes of the two passes of txt2img, by AUTOMATIC1111's many fields for them."""

import math
from dataclasses import dataclass

from sdserver.api.config import Limits
from sdserver.api.options import Snapshot
from sdserver.api.requests import Txt2ImgRequest
from sdserver.errors import InvalidField
from sdserver.jobs.job import Size

_OLD_PIXELS = 512 * 512
_OLD_MULTIPLE = 64
_CELL = 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a request with hires fix.

    Attributes:
        first: of the first pass.
        upscale_to: what its picture is scaled to.
        result: that without what is cut off.
        resize: as the infotext says it, "" where the request gives a factor.
    """

    first: Size
    upscale_to: Size
    result: Size
    resize: str


def first_size(request: Txt2ImgRequest) -> Size:
    """The first pass's size; the `firstphase_*` fields beat width and height, with hires fix or without."""
    if request.firstphase_width or request.firstphase_height:
        return Size(request.firstphase_width, request.firstphase_height)
    return Size(request.width, request.height)


def hires_sizes(request: Txt2ImgRequest, options: Snapshot, limits: Limits) -> Sizes:
    """The sizes with hires fix.

    Raises:
        InvalidField: a size is out of range.
    """
    first = first_size(request)
    wanted = Size(request.hr_resize_x, request.hr_resize_y)
    if options.flag("use_old_hires_fix_width_height"):
        wanted, first = first, _old_first_size(first)
        _check(first, "width", "first", limits)
    if wanted == Size(0, 0):
        by_factor = Size(int(first.width * request.hr_scale), int(first.height * request.hr_scale))
        _check(by_factor, "hr_scale", "second", limits)
        return Sizes(first, by_factor, by_factor, "")
    upscale_to = _covering(first, wanted)
    field = "hr_resize_x" if wanted.width else "hr_resize_y"
    _check(upscale_to, field, "second", limits)
    result = upscale_to
    if wanted.width and wanted.height:
        result = Size(
            _cut(upscale_to.width, wanted.width),
            _cut(upscale_to.height, wanted.height),
        )
        _check(result, field, "second", limits)
    return Sizes(first, upscale_to, result, f"{wanted.width}x{wanted.height}")


def _covering(first: Size, wanted: Size) -> Size:
    """The first pass's shape enlarged to cover what is wanted; a side of 0 follows from the other."""
    by_width = Size(wanted.width, wanted.width * first.height // first.width)
    by_height = Size(wanted.height * first.width // first.height, wanted.height)
    if wanted.height == 0:
        return by_width
    if wanted.width == 0:
        return by_height
    is_wider = first.width / first.height < wanted.width / wanted.height
    return by_width if is_wider else by_height


def _cut(length: int, wanted: int) -> int:
    """A side without its overhang, of which whole cells of the latent are cut off."""
    return length - (length - wanted) // _CELL * _CELL


def _old_first_size(size: Size) -> Size:
    scale = math.sqrt(_OLD_PIXELS / (size.width * size.height))
    return Size(_old_side(size.width * scale), _old_side(size.height * scale))


def _old_side(length: float) -> int:
    return math.ceil(length / _OLD_MULTIPLE) * _OLD_MULTIPLE


def _check(size: Size, field: str, which: str, limits: Limits) -> None:
    fits = (
        limits.min_side <= size.width <= limits.max_width
        and limits.min_side <= size.height <= limits.max_height
        and size.width * size.height <= limits.max_pixels
    )
    if not fits:
        message = (
            f"The field {field!r} makes the {which} pass {size.width:,} x {size.height:,} pixels: its sides "
            f"must be from {limits.min_side} to {limits.max_width:,} and {limits.max_height:,}, and their "
            f"product at most {limits.max_pixels:,}."
        )
        raise InvalidField(field, message)
