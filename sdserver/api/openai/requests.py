"""From OpenAI's fields to requests for pictures."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from sdserver.api.config import Limits
from sdserver.api.openai.fields import OWN_NAMES, ImageEdit, ImageFields, ImageGeneration, parsed
from sdserver.api.options import CHECKPOINT
from sdserver.api.requests import Img2ImgRequest, Txt2ImgRequest
from sdserver.api.services import Services
from sdserver.errors import InvalidField
from sdserver.images.decode import FetchedPicture, read
from sdserver.jobs.job import Size

CELL: Final = 8
SIDE: Final = 512
LARGE_SIDE: Final = 1024
LARGE_FAMILIES: Final = frozenset({"sdxl"})
"""Families whose checkpoints were trained on pictures of 1024 x 1024."""

VARIATION_STRENGTH: Final = 0.5
CUT: Final = 1
"""A1111's `resize_mode` that keeps proportions and cuts off what stands over."""

KEPT: Final = frozenset({"prompt", "batch_size", "n_iter", "init_images", "mask", "send_images"})
"""Fields of ours that others stand for."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """Files of a form.

    Attributes:
        images: at least one.
        mask: what is transparent in it is painted; None for none.
    """

    images: tuple[bytes, ...]
    mask: bytes | None


def generation(services: Services, asked: ImageGeneration) -> Txt2ImgRequest:
    """The request for pictures from text.

    Raises:
        InvalidField, UnknownCheckpoint: a field is no use.
    """
    asked.check(services.config.limits.max_images)
    overrides = _overrides(services, asked)
    size = asked.wanted_size or _usual_size(services, overrides)
    fields = {"steps": asked.steps, "width": size.width, "height": size.height}
    fields |= _others(asked, Txt2ImgRequest) | {"prompt": asked.prompt, "batch_size": asked.n}
    request = parsed(Txt2ImgRequest, fields)
    request.override_settings = {**overrides, **(request.override_settings or {})}
    return request


def edit(services: Services, asked: ImageFields, uploads: Uploads) -> Img2ImgRequest:
    """The request for pictures from pictures, each of which is made `n` times. Blocks.

    Raises:
        InvalidField, UnknownCheckpoint: a field or file is no use.
    """
    limits = services.config.limits
    asked.check(limits.max_images)
    overrides = _overrides(services, asked) | {"return_mask": False, "return_mask_composite": False}
    pictures = _pictures(uploads.images, limits)
    mask = _mask(uploads, pictures, limits)
    size = asked.wanted_size or _size_like(pictures[0], limits)
    fields: dict[str, Any] = {"steps": asked.steps, "width": size.width, "height": size.height}
    fields |= {"resize_mode": CUT, "inpaint_full_res": False}
    if isinstance(asked, ImageEdit):
        fields["prompt"] = asked.prompt
    else:
        fields["denoising_strength"] = VARIATION_STRENGTH
    fields |= _others(asked, Img2ImgRequest) | {"batch_size": len(pictures), "n_iter": asked.n}
    request = parsed(Img2ImgRequest, fields)
    request.override_settings = {**(request.override_settings or {}), **overrides}
    files = [FetchedPicture.of("upload", data) for data in uploads.images]
    upload = None if mask is None else FetchedPicture.of("upload", mask)
    return request.model_copy(update={"init_images": files, "mask": upload})


def _overrides(services: Services, asked: ImageFields) -> dict[str, Any]:
    overrides = asked.overrides
    if asked.model and not asked.model.startswith(OWN_NAMES):
        overrides[CHECKPOINT] = services.catalog.find(asked.model).title
    return overrides


def _others(asked: ImageFields, model: type[Txt2ImgRequest] | type[Img2ImgRequest]) -> dict[str, Any]:
    """Our own fields beside OpenAI's; `strength` is short for one of them."""
    extra = dict(asked.model_extra or {})
    if "strength" in extra:
        extra.setdefault("denoising_strength", extra["strength"])
    return {name: extra[name] for name in model.model_fields if name in extra and name not in KEPT}


def _usual_size(services: Services, overrides: dict[str, Any]) -> Size:
    """What the checkpoint was trained on, as far as known."""
    loaded = services.engine.model
    wanted = overrides.get(CHECKPOINT)
    if loaded is None or (wanted and services.catalog.find(wanted).filename != loaded.checkpoint):
        return Size(SIDE, SIDE)
    side = LARGE_SIDE if loaded.family in LARGE_FAMILIES else SIDE
    limits = services.config.limits
    side = min(side, limits.max_width, limits.max_height, math.isqrt(limits.max_pixels))
    return Size(side, side)


def _size_like(picture: Image.Image, limits: Limits) -> Size:
    """The picture's size in whole cells, made smaller where it is too large."""
    width, height = picture.size
    scale = min(
        1.0,
        limits.max_width / width,
        limits.max_height / height,
        math.sqrt(limits.max_pixels / (width * height)),
    )
    least = max(CELL, -(-limits.min_side // CELL) * CELL)
    return Size(*(max(least, int(side * scale) // CELL * CELL) for side in (width, height)))


def _pictures(files: Sequence[bytes], limits: Limits) -> list[Image.Image]:
    pictures, left = [], limits.max_init_pixels
    for data in files:
        pictures.append(read(data, "image", left))
        left -= pictures[-1].width * pictures[-1].height
    return pictures


def _mask(uploads: Uploads, pictures: Sequence[Image.Image], limits: Limits) -> bytes | None:
    """White where OpenAI's mask is transparent; one picture's own transparency does for a mask."""
    first = pictures[0]
    if uploads.mask is not None:
        mask = read(uploads.mask, "mask", limits.max_init_pixels)
        if "A" not in mask.mode:
            message = "The mask must have an alpha channel: what is transparent is painted."
            raise InvalidField("mask", message)
        if mask.size != first.size:
            message = f"The mask must have the picture's size, {first.width}x{first.height}."
            raise InvalidField("mask", message)
        return _painted(mask)
    if len(pictures) == 1 and _is_transparent(first):
        return _painted(first)
    return None


def _painted(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.getchannel("A").point([255 - value for value in range(256)]).save(buffer, "PNG")
    return buffer.getvalue()


def _is_transparent(picture: Image.Image) -> bool:
    """Whether it is anywhere."""
    return "A" in picture.mode and any(picture.getchannel("A").histogram()[:255])
