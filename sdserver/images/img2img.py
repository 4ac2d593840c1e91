"""From a client's picture and mask to what img2img starts with, in AUTOMATIC1111's order."""

from dataclasses import dataclass

from PIL import Image, ImageColor

from sdserver.errors import InvalidField
from sdserver.images import masks
from sdserver.images.colour import Levels, lab
from sdserver.images.fill import fill
from sdserver.images.finish import Finish
from sdserver.images.masks import Box
from sdserver.images.overlay import cut_out, flatten
from sdserver.images.pictures import to_picture
from sdserver.images.resize import COVER, FIT, LATENT, Unfitted, check_resize, resize, unfitted
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Mask, MaskedContent, SoftInpainting


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """What is asked for, the same for all pictures of a request.

    Attributes:
        width, height: of the pass, in pixels.
        resize_mode: 0 stretch, 1 cut, 3 resize the latent; any other fits in and smears the edges.
        background: colour behind transparent pictures, as `#ffffff`.
        mask: the client's picture, None to paint all.
        latent_mask: mode L, of the pass's size: what is painted in the latent and filled before that, where
            this is not what `mask` says. It is not blurred.
        mask_blur_x, mask_blur_y: standard deviations in pixels, none if not above 0.
        is_mask_rounded: whether every value counts as painted or not, nothing between.
        invert: paint what is not masked.
        only_masked: paint the masked area alone, at the whole pass's size.
        padding: pixels around that area that are painted with it.
        content: what stands in the masked area at the start. All but "original" begin with the colours
            around it smeared into it.
        colour_correction: whether the result is given the initial picture's colours.
        colours: the picture whose colours these are, where it is another.
        overlay: whether what is not masked is restored in the result.
        conditioning_weight, soft: see `jobs.job.Mask`.
        tells_unfitted: whether pictures that are to become larger are told in `Prepared.unfitted`.
    """

    width: int
    height: int
    resize_mode: int = 0
    background: str = "#ffffff"
    mask: Image.Image | None = None
    latent_mask: Image.Image | None = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    is_mask_rounded: bool = True
    invert: bool = False
    only_masked: bool = True
    padding: int = 0
    content: MaskedContent = "fill"
    colour_correction: bool = False
    colours: Image.Image | None = None
    overlay: bool = True
    conditioning_weight: float = 1.0
    soft: SoftInpainting | None = None
    tells_unfitted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What one picture became.

    Attributes:
        init: of the pass's size, or of any if `resize_latent`. Its sides need not be multiples of 8.
        mask: for the job, None where all is painted.
        resize_latent: whether the latent has to be brought to the pass's size.
        is_cropped: whether only the masked area is painted (false if it was asked but nothing is masked).
        finish: what is to be done to the result.
        unfitted: what was enlarged by Lanczos, where it was asked and nothing was enlarged otherwise.
    """

    init: Picture
    mask: Mask | None
    resize_latent: bool
    is_cropped: bool
    finish: Finish
    unfitted: Unfitted | None = None


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


class Preparing:
    """Makes the pictures of a request ready for img2img; what they share is computed once.

    Args:
        preparation: what is asked.

    Raises:
        InvalidField: blur or padding are out of range.
        RequestError: the mask's proportions are too far from those of the pass.
    """

    def __init__(self, preparation: Preparation) -> None:
        self._asked = preparation
        self._masks = _masks(preparation)
        self._region = self._masks.region if self._masks else None

    @property
    def resizes_latent(self) -> bool:
        """Whether pictures keep their size, and their latents are brought to the pass's."""
        return self._region is None and self._asked.resize_mode == LATENT

    def prepare(self, image: Image.Image, fitted: Image.Image | None = None) -> Prepared:
        """Make a picture, of any mode, ready.

        Args:
            image: the client's.
            fitted: what something else than Lanczos made of an earlier call's `Prepared.unfitted`.

        Raises:
            InvalidField: the background is no colour.
            RequestError: the picture's proportions are too far from those of the pass.
        """
        asked, found, region = self._asked, self._masks, self._region
        start = flatten(image, _colour(asked.background))
        unfitted = None
        if region is None and not self.resizes_latent:
            unfitted = self._unfitted(start, asked.resize_mode)
            start = resize(start, asked.resize_mode, asked.width, asked.height, fitted)
        overlay = mask = None
        if found:
            mask = _fitting(found.overlay, start.size, asked.resize_mode)
            if asked.overlay:
                overlay = cut_out(start, mask).convert("RGBA")
        original = start if found and asked.soft else None
        if region:
            part = start.crop(region)
            unfitted = self._unfitted(part, FIT)
            start = resize(part, FIT, asked.width, asked.height, fitted)
        if found and asked.content != "original":
            start = fill(start, _fitting(asked.latent_mask or found.paint, start.size, asked.resize_mode))
        return Prepared(
            to_picture(start),
            _job_mask(found.paint, asked) if found else None,
            self.resizes_latent,
            region is not None,
            Finish(_colours(start, asked), overlay, region, mask, original),
            unfitted if fitted is None else None,
        )

    def _unfitted(self, image: Image.Image, mode: int) -> Unfitted | None:
        asked = self._asked
        return unfitted(image, mode, asked.width, asked.height) if asked.tells_unfitted else None


def prepare(image: Image.Image, preparation: Preparation) -> Prepared:
    """Make one picture ready; see `Preparing`."""
    return Preparing(preparation).prepare(image)


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
    check_resize((width, height), COVER, *region.size)  # what is painted has to find its way back
    return _Masks(resize(mask.crop(region), FIT, width, height), mask, region)


def _fitting(mask: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    return mask if mask.size == size else resize(mask, mode, *size)


def _colours(start: Image.Image, preparation: Preparation) -> Levels | None:
    if not preparation.colour_correction:
        return None
    return lab(start if preparation.colours is None else preparation.colours.convert("RGB"))


def _job_mask(paint: Image.Image, preparation: Preparation) -> Mask:
    return Mask(
        paint.tobytes(),
        masks.latent(preparation.latent_mask or paint, preparation.width, preparation.height),
        preparation.is_mask_rounded,
        preparation.content,
        preparation.conditioning_weight,
        soft=preparation.soft,
    )


def _colour(text: str) -> str:
    try:
        ImageColor.getrgb(text)
    except ValueError as error:
        raise InvalidField("img2img_background_color", f"{text!r} is not a colour.") from error
    return text
