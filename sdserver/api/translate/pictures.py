"""The pictures of an img2img request: decoded, masked and resized. Takes time: runs on worker threads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from PIL import Image

from sdserver.api.always_on import always_on
from sdserver.api.config import Limits
from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest
from sdserver.api.translate.plan import Given
from sdserver.errors import InvalidField
from sdserver.images.decode import decode
from sdserver.images.img2img import Preparation, Prepared, Preparing
from sdserver.jobs.job import Mask, MaskedContent, Size

CELL: Final = 8
"""Pixels per side of a latent's cell."""

ENLARGER: Final = "upscaler_for_img2img"
NO_ENLARGER: Final = ("", "None")

CONTENTS: Final[Mapping[int, MaskedContent]] = {
    0: "fill",
    1: "original",
    2: "latent noise",
    3: "latent nothing",
}
"""By the number in `inpainting_fill`; another number is "fill", as in AUTOMATIC1111."""


@dataclass(frozen=True, slots=True)
class Inits:
    """A request's pictures.

    Attributes:
        prepared: one, or one for each image of a batch.
        batch_size: images per batch: that of the request, or the number of its pictures.
    """

    prepared: tuple[Prepared, ...]
    batch_size: int

    def of(self, index: int) -> Prepared:
        """The one that an image begins with, by the image's place in the request."""
        return self.prepared[index % self.batch_size % len(self.prepared)]


def init_pictures(request: Img2ImgRequest, options: Snapshot, limits: Limits, given: Given) -> Inits:
    """Decode and prepare a request's pictures, one after the other: unpacked they may be large.

    Args:
        request: names them.
        options: of this request.
        limits: of their sizes.
        given: pictures that stand for the request's.

    Raises:
        InvalidField: a picture cannot be read, they are too large together, or there are too many.
        RequestError: their proportions are too far from those of the pass.
    """
    count = len(given.pictures or request.init_images or ())
    if count > request.batch_size:
        message = f"bad number of images passed: {count}; expecting {request.batch_size} or less"
        raise InvalidField("init_images", message)
    mask = given.mask if given.pictures else request_mask(request, limits)
    preparation = _preparation(request, options, mask)
    preparing = Preparing(replace(preparation, latent_mask=given.latent_mask, colours=given.colours))
    prepared: list[Prepared] = []
    fitted = given.fitted or (None,) * count
    for picture, larger in zip(given.pictures or _decoded(request, limits), fitted, strict=True):
        if preparing.resizes_latent:
            _check_latent_resize(picture, limits)
        prepared.append(preparing.prepare(picture, larger))
    batch_size = request.batch_size if len(prepared) == 1 else len(prepared)
    inits = Inits(tuple(prepared), batch_size)
    _check_results(inits, batch_size * request.n_iter, limits)
    return inits


def request_mask(request: Img2ImgRequest, limits: Limits) -> Image.Image | None:
    """The request's own mask, decoded; None if it has none.

    Raises:
        InvalidField: it cannot be read, or is too large.
    """
    return decode(request.mask, "mask", limits.max_init_pixels) if request.mask else None


def request_pictures(request: Img2ImgRequest, limits: Limits) -> tuple[Image.Image, ...]:
    """The request's own pictures, decoded.

    Raises:
        InvalidField: one cannot be read, or they are too large together.
    """
    return tuple(_decoded(request, limits))


def _decoded(request: Img2ImgRequest, limits: Limits) -> Iterator[Image.Image]:
    left = limits.max_init_pixels
    for text in request.init_images or ():
        picture = decode(text, "init_images", left)
        left -= picture.width * picture.height
        yield picture


def _check_results(inits: Inits, images: int, limits: Limits) -> None:
    """See that the results are not too large together: cropped ones become as large as the pictures."""
    finishes = [inits.of(k).finish for k in range(images)]
    overlays = [finish.overlay or finish.original for finish in finishes]
    pixels = sum(overlay.width * overlay.height for overlay in overlays if overlay is not None)
    most = limits.max_pixels * limits.max_images
    if pixels > most:
        message = (
            f"The results would have {pixels:,} pixels together, at most {most:,} are allowed: ask for "
            "fewer images, or send smaller pictures."
        )
        raise InvalidField("init_images", message)


def _check_latent_resize(picture: Image.Image, limits: Limits) -> None:
    """See that a picture which is encoded in its own size is not too large or small for that."""
    width, height = picture.size
    if min(width, height) < limits.min_side or width * height > limits.max_pixels:
        message = (
            f"With resize_mode 3 a picture's sides must be at least {limits.min_side} pixels and "
            f"their product at most {limits.max_pixels:,}: choose another mode."
        )
        raise InvalidField("init_images", message)


def job_mask(prepared: Prepared, size: Size, options: Snapshot, content_seed: int) -> Mask | None:
    """The mask of one image's job.

    Where all is painted and inpainting checkpoints are to see the picture all the same, that is a mask
    that hides nothing of it from being painted.

    Args:
        prepared: the image's picture.
        size: of the pass.
        options: of this request.
        content_seed: of the noise under the mask.
    """
    weight = options.number("inpainting_mask_weight")
    if prepared.mask is not None:
        return replace(prepared.mask, content_seed=content_seed)
    if weight >= 1 or prepared.resize_latent:
        return None
    pixels = bytes([255]) * (prepared.init.width * prepared.init.height)
    latent = bytes([255]) * (size.width // CELL * (size.height // CELL))
    return Mask(pixels, latent, is_rounded=True, content="original", conditioning_weight=weight)


def mask_blur(request: Img2ImgRequest) -> tuple[int, int]:
    """Of the mask in both directions, in pixels."""
    if request.mask_blur is not None:
        return request.mask_blur, request.mask_blur
    return request.mask_blur_x, request.mask_blur_y


def _preparation(request: Img2ImgRequest, options: Snapshot, mask: Image.Image | None) -> Preparation:
    blur_x, blur_y = mask_blur(request)
    soft = always_on(request).soft_inpainting
    return Preparation(
        width=request.width,
        height=request.height,
        resize_mode=request.resize_mode,
        background=options.text("img2img_background_color"),
        mask=mask,
        mask_blur_x=blur_x,
        mask_blur_y=blur_y,
        is_mask_rounded=request.mask_round and soft is None,
        invert=bool(request.inpainting_mask_invert),
        only_masked=request.inpaint_full_res,
        padding=request.inpaint_full_res_padding,
        content=CONTENTS.get(request.inpainting_fill, "fill"),
        colour_correction=options.flag("img2img_color_correction"),
        overlay=options.flag("overlay_inpaint"),
        conditioning_weight=options.number("inpainting_mask_weight"),
        soft=soft,
        tells_unfitted=options.text(ENLARGER) not in NO_ENLARGER,
    )
