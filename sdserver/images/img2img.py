"""From a client's picture and mask to what img2img starts with, in AUTOMATIC1111's order."""

from dataclasses import dataclass

from PIL import Image, ImageColor

from sdserver.errors import InvalidField
from sdserver.images import masks
from sdserver.images.colour import lab
from sdserver.images.fill import fill
from sdserver.images.finish import Finish
from sdserver.images.masks import Box
from sdserver.images.overlay import cut_out, flatten
from sdserver.images.pictures import to_picture
from sdserver.images.resize import FIT, LATENT, resize
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Mask, MaskedContent


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """What is asked for, the same for all pictures of a request.

    Attributes:
        width, height: of the pass, in pixels.
        resize_mode: 0 stretch, 1 cut, 3 resize the latent; any other fits in and smears the edges.
        background: colour behind transparent pictures, as `#ffffff`.
        mask: the client's picture, None to paint all.
        mask_blur_x, mask_blur_y: standard deviations in pixels, none if not above 0.
        is_mask_rounded: whether every value counts as painted or not, nothing between.
        invert: paint what is not masked.
        only_masked: paint the masked area alone, at the whole pass's size.
        padding: pixels around that area that are painted with it.
        content: what stands in the masked area at the start. All but "original" begin with the colours
            around it smeared into it.
        colour_correction: whether the result is given the initial picture's colours.
        overlay: whether what is not masked is restored in the result.
        conditioning_weight: see `jobs.job.Mask`.
    """

    width: int
    height: int
    resize_mode: int = 0
    background: str = "#ffffff"
    mask: Image.Image | None = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    is_mask_rounded: bool = True
    invert: bool = False
    only_masked: bool = True
    padding: int = 0
    content: MaskedContent = "fill"
    colour_correction: bool = False
    overlay: bool = True
    conditioning_weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What one picture became.

    Attributes:
        init: of the pass's size, or of any if `resize_latent`. Its sides need not be multiples of 8.
        mask: for the job, None where all is painted.
        resize_latent: whether the latent has to be brought to the pass's size.
        is_cropped: whether only the masked area is painted (false if it was asked but nothing is masked).
        finish: what is to be done to the result.
    """

    init: Picture
    mask: Mask | None
    resize_latent: bool
    is_cropped: bool
    finish: Finish


@dataclass(frozen=True, slots=True)
class _Masks:
    """The masks of one request, mode L.

    Attributes:
        paint: of the pass's size.
        overlay: of the mask picture's size if there is a region, else of the pass's.
        region: of the picture that is painted, None for all of it.
    """

    paint: Image.Image
    overlay: Image.Image
    region: Box | None


def prepare(image: Image.Image, preparation: Preparation) -> Prepared:
    """Make a picture ready for img2img.

    Args:
        image: as the client sent it, of any mode.
        preparation: what is asked.

    Raises:
        InvalidField: the background is no colour, or blur or padding are out of range.
    """
    found = _masks(preparation)
    region = found.region if found else None
    resize_latent = region is None and preparation.resize_mode == LATENT
    start = flatten(image, _colour(preparation.background))
    if region is None and not resize_latent:
        start = resize(start, preparation.resize_mode, preparation.width, preparation.height)
    overlay = mask = None
    if found:
        mask = _fitting(found.overlay, start.size, preparation.resize_mode)
        if preparation.overlay:
            overlay = cut_out(start, mask).convert("RGBA")
    if region:
        start = resize(start.crop(region), FIT, preparation.width, preparation.height)
    if found and preparation.content != "original":
        start = fill(start, _fitting(found.paint, start.size, preparation.resize_mode))
    colours = lab(start) if preparation.colour_correction else None
    return Prepared(
        to_picture(start),
        _job_mask(found.paint, preparation) if found else None,
        resize_latent,
        region is not None,
        Finish(colours, overlay, region, mask),
    )


def _masks(preparation: Preparation) -> _Masks | None:
    """None where there is no mask, or one that masks nothing and only that is to be painted."""
    if preparation.mask is None:
        return None
    mask = masks.from_picture(preparation.mask, is_rounded=preparation.is_mask_rounded)
    if preparation.invert:
        mask = masks.invert(mask)
    mask = masks.blur(mask, preparation.mask_blur_x, preparation.mask_blur_y)
    width, height = preparation.width, preparation.height
    if not preparation.only_masked:
        paint = resize(mask, preparation.resize_mode, width, height)
        return _Masks(paint, masks.doubled(paint), None)
    region = masks.crop_region(mask, preparation.padding, width, height)
    if region is None:
        return None
    return _Masks(resize(mask.crop(region), FIT, width, height), mask, region)


def _fitting(mask: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    return mask if mask.size == size else resize(mask, mode, *size)


def _job_mask(paint: Image.Image, preparation: Preparation) -> Mask:
    return Mask(
        paint.tobytes(),
        masks.latent(paint, preparation.width, preparation.height),
        preparation.is_mask_rounded,
        preparation.content,
        preparation.conditioning_weight,
    )


def _colour(text: str) -> str:
    try:
        ImageColor.getrgb(text)
    except ValueError as error:
        raise InvalidField("img2img_background_color", f"{text!r} is not a colour.") from error
    return text
