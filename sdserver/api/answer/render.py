"""The answer to a finished request."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from PIL import Image

from sdserver.api.answer.facts import Facts
from sdserver.api.answer.info import info, infotext
from sdserver.api.answer.shown import Plain, Shown, shown
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.saving import grid_rules, name_facts, picture_rules
from sdserver.api.translate.plan import Plan
from sdserver.errors import RequestError
from sdserver.images.codec import PictureFormat, encode, to_base64
from sdserver.images.files import Saver
from sdserver.jobs.events import Cancelled, Finished, Picture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response's body, and why pictures could not be saved if they could not."""

    body: bytes
    save_error: str | None


def render_answer(plan: Plan, ends: Sequence[Finished | Cancelled], facts: Facts, saver: Saver) -> Answer:
    """Encode, save and describe a request's pictures. Blocks: call it in a worker thread.

    Images that were cancelled are left out. Where a picture cannot be saved, the answer holds it all
    the same.

    Args:
        plan: what was asked.
        ends: the jobs' ends, in order.
        facts: what turned out meanwhile.
        saver: writes the files.

    Raises:
        RequestError: a picture is too large for the format that it is to be sent in.
    """
    items, sends = shown(plan, ends), plan.request.send_images
    images: list[str] = []
    texts: list[str] = []
    save_error = None
    for item in items:
        if isinstance(item, Plain):
            if sends:
                images.append(to_base64(_encoded_plain(plan, item)))
            continue
        data: dict[str, bytes] = {}
        text = infotext(plan, item.index, facts)
        if item.told:
            texts.append(text)
        if item.told and sends:
            images.append(to_base64(_encoded(plan, item, text, "samples_format", data)))
        if item.kept:
            try:
                _save(plan, item, text, data, facts, saver)
            except (OSError, ValueError, RequestError) as error:
                log.error("a picture could not be saved: %s", error)
                save_error = _reason(error)
    # One that was stopped before its first picture still says what would have been made.
    texts = texts or [infotext(plan, 0, facts)]
    first = items[0] if items else None
    has_grid = isinstance(first, Shown) and first.is_grid and first.told
    body = {
        "images": images,
        "parameters": _echo(plan.request),
        "info": json.dumps(info(plan, texts, facts, has_grid=has_grid)),
    }
    return Answer(orjson.dumps(body), save_error)


def _reason(error: Exception) -> str:
    """Why a picture could not be saved, without the server's paths."""
    if isinstance(error, RequestError):
        return str(error)
    return getattr(error, "strerror", None) or "the folder is not allowed"


def _echo(request: Request) -> dict[str, Any]:
    """The answer's `parameters`: without the pictures, unless they are wanted."""
    if isinstance(request, Img2ImgRequest) and not request.include_init_images:
        request = request.model_copy(update={"init_images": None, "mask": None})
    return request.model_dump()


def _encoded(plan: Plan, item: Shown, text: str, format_option: str, done: dict[str, bytes]) -> bytes:
    """The picture's file in the option's format, encoded once per format."""
    picture_format = plan.options.text(format_option)
    if picture_format not in done:
        told = text if plan.options.flag("enable_pnginfo") else None
        done[picture_format] = _in_format(plan, item.picture, format_option, told)
    return done[picture_format]


def _encoded_plain(plan: Plan, item: Plain) -> bytes:
    """A picture without infotext; only PNG keeps its transparency, as in AUTOMATIC1111."""
    return _in_format(plan, item.image, "samples_format", None)


def _in_format(plan: Plan, picture: Picture | Image.Image, format_option: str, text: str | None) -> bytes:
    options = plan.options
    return encode(
        picture,
        cast(PictureFormat, options.text(format_option)),
        text,
        quality=math.floor(options.number("jpeg_quality")),
        lossless=options.flag("webp_lossless"),
    )


def _save(plan: Plan, item: Shown, text: str, done: dict[str, bytes], facts: Facts, saver: Saver) -> None:
    format_option = "grid_format" if item.is_grid else "samples_format"
    rules = grid_rules(plan) if item.is_grid else picture_rules(plan)
    data = _encoded(plan, item, text, format_option, done)
    names = name_facts(plan, item.index, facts.known(plan.checkpoint))
    saver.save(data, plan.options.text(format_option), rules, names, text)
