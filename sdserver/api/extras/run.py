"""Doing the work of a request for extras: filters and files on worker threads, networks in the engine."""

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

from PIL import Image

from sdserver.api.answer.answer import Encoded
from sdserver.api.config import Limits
from sdserver.api.extras.answer import ExtrasAnswer
from sdserver.api.extras.plan import (
    Target,
    Upscaler,
    Upscalers,
    check_sum,
    face_steps,
    info_of,
    needs_network,
    target_of,
    upscalers_of,
)
from sdserver.api.extras.request import ExtrasRequest, ExtrasSingleImageRequest
from sdserver.api.options import Snapshot
from sdserver.api.services import Services
from sdserver.api.translate.hires import upscaler_tiles
from sdserver.errors import InvalidField
from sdserver.images.codec import INFOTEXT_KEY, PictureFormat, encode
from sdserver.images.decode import decode
from sdserver.images.enlarge import LANCZOS, blended, cropped, filtered, plain
from sdserver.images.metadata import carried_texts
from sdserver.images.pictures import to_image, to_picture
from sdserver.jobs.events import Cancelled, Finished, Picture
from sdserver.jobs.job import Enlarge, FaceStep, Restore, Size, UpscalerTiles

Run = Callable[[Sequence[Enlarge | Restore]], Awaitable[Sequence[Finished | Cancelled]]]
"""Has the engine run jobs, and drops them when it is cancelled."""

INFO_KEY: Final = "postprocessing"
MAX_TEXTS: Final = 2**20
"""Characters that are carried over; a small file may hold many."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A client's picture.

    Attributes:
        image: RGB or RGBA.
        texts: from its file, that are carried over.
        target: None where it stays as it is.
    """

    image: Image.Image
    texts: Mapping[str, str]
    target: Target | None


async def run_extras(
    services: Services,
    request: ExtrasRequest,
    request_id: str,
    run: Run,
    is_stopped: Callable[[], bool],
) -> ExtrasAnswer:
    """Enlarge a request's pictures, then restore their faces. Those that somebody stops are left out.

    Args:
        services: what it is worked with.
        request: the body.
        request_id: the jobs are named after it.
        run: runs the jobs of networks; it is called at least once, perhaps with none.
        is_stopped: whether somebody ended the request early.

    Raises:
        MissingModel: a network that restores faces is not there.
        RequestError: the request cannot be served as it is.
        Refused: the queue is full, or the server is shutting down.
        JobError: a job failed.
        CheckpointError: a network's file cannot be used.
    """
    upscalers = upscalers_of(request, services.networks)
    options, limits = services.options.snapshot(), services.config.limits
    steps = await services.in_thread(partial(face_steps, request, options, services.networks))
    sources = await services.in_thread(partial(_sources, request, upscalers, limits))
    jobs = await services.in_thread(partial(_jobs, sources, upscalers, request_id, upscaler_tiles(options)))
    ends = await run(tuple(jobs.values())) if jobs or not steps else ()
    by_place = dict(zip(jobs, ends, strict=True))
    info = info_of(request, upscalers)
    enlarged: list[Source] = []
    pictures: list[Encoded] = []
    for index, source in enumerate(sources):
        own = {number: end for (place, number), end in by_place.items() if place == index}
        made = {number: end.picture for number, end in own.items() if isinstance(end, Finished)}
        if len(made) < len(own) or (is_stopped() and not own):
            continue
        image = await services.in_thread(partial(_result, source, upscalers, made))
        enlarged.append(replace(source, image=image))
        if not steps:
            pictures.append(await services.in_thread(partial(_encoded, enlarged.pop(), info, options)))
    if enlarged:
        for source in await _restored(services, enlarged, steps, request_id, run):
            pictures.append(await services.in_thread(partial(_encoded, source, info, options)))
    is_single = isinstance(request, ExtrasSingleImageRequest)
    return ExtrasAnswer(tuple(pictures), (info,) * len(pictures), is_single)


async def _restored(
    services: Services, sources: Sequence[Source], steps: tuple[FaceStep, ...], request_id: str, run: Run
) -> list[Source]:
    """The pictures with their faces restored. What is transparent in them stays so."""
    jobs = []
    for place, source in enumerate(sources):
        picture = await services.in_thread(partial(to_picture, source.image))
        jobs.append(Restore(f"{request_id}.faces/{place}", picture, steps))
    ends = await run(jobs)
    return [
        replace(source, image=_with_transparency(to_image(end.picture), source.image))
        for source, end in zip(sources, ends, strict=True)
        if isinstance(end, Finished)
    ]


def _with_transparency(image: Image.Image, like: Image.Image) -> Image.Image:
    if like.mode == "RGBA":
        image.putalpha(like.getchannel("A"))
    return image


def _sources(request: ExtrasRequest, upscalers: Upscalers | None, limits: Limits) -> list[Source]:
    """The request's pictures, decoded and checked. Blocks."""
    field = "image" if isinstance(request, ExtrasSingleImageRequest) else "imageList"
    sources: list[Source] = []
    for given in _decoded(request, limits):
        target = target_of(request, given.size, upscalers, limits) if upscalers else None
        texts, image = carried_texts(given), plain(given)
        if sum(len(text) for text in texts.values()) > MAX_TEXTS:
            message = (
                f"The texts inside a picture may have at most {MAX_TEXTS:,} characters: send it without."
            )
            raise InvalidField(field, message)
        image.info = {}  # or a colour profile and a transparent colour would go with it
        sources.append(Source(image, texts, target))
    pixels = [
        source.target.pixels if source.target else source.image.width * source.image.height
        for source in sources
    ]
    check_sum(pixels, field, limits)
    return sources


def _decoded(request: ExtrasRequest, limits: Limits) -> Iterator[Image.Image]:
    left = limits.max_init_pixels
    if isinstance(request, ExtrasSingleImageRequest):
        yield decode(request.image, "image", left)
        return
    if len(request.imageList) > limits.max_images:
        message = f"Too many pictures: 'imageList' may hold at most {limits.max_images}."
        raise InvalidField("imageList", message)
    for file in request.imageList:
        image = decode(file.data, "imageList", left)
        left -= image.width * image.height
        yield image


def _jobs(
    sources: Sequence[Source], upscalers: Upscalers | None, request_id: str, tiles: UpscalerTiles
) -> dict[tuple[int, int], Enlarge]:
    """What the engine is to do, by the places of picture and upscaler. Blocks."""
    jobs: dict[tuple[int, int], Enlarge] = {}
    for index, source in enumerate(sources):
        picture: Picture | None = None
        for number, upscaler in enumerate(upscalers.all if upscalers else ()):
            target = source.target
            if target is not None and needs_network(upscaler, source.image.size, target):
                picture = picture or to_picture(source.image)
                job_id = f"{request_id}/{len(jobs)}"
                size = Size(*target.size)
                jobs[index, number] = Enlarge(
                    job_id, picture, size, upscaler.name, upscaler.path, target.factor, tiles
                )
    return jobs


def _result(source: Source, upscalers: Upscalers | None, made: Mapping[int, Picture]) -> Image.Image:
    """A picture enlarged, if it is to be. Blocks.

    Args:
        source: the client's picture.
        upscalers: of the request.
        made: what the engine made of it, by the upscaler's place.
    """
    image = source.image
    if upscalers is not None and source.target is not None:
        image = _layer(source.image, source.target, upscalers.first, made.get(0))
        if upscalers.second is not None:
            other = _layer(source.image, source.target, upscalers.second, made.get(1))
            image = blended(image, other, upscalers.share)
    return image


def _layer(image: Image.Image, target: Target, upscaler: Upscaler, made: Picture | None) -> Image.Image:
    """What one upscaler makes of a picture."""
    if made is not None:
        image = to_image(made)
    else:
        # A network that has nothing to do leaves the rest to Lanczos.
        name = LANCZOS if upscaler.is_network else upscaler.name
        image = filtered(image, target.factor, target.size, name)
    return cropped(image, target.crop) if target.crop else image


def _encoded(source: Source, info: str, options: Snapshot) -> Encoded:
    """A picture's file; only PNG holds texts beside the infotext. Blocks.

    Args:
        source: with the picture as it came to be.
        info: what was done.
        options: say how it is encoded.
    """
    texts = {**source.texts, INFO_KEY: info}
    is_told = options.flag("enable_pnginfo")
    infotext = texts.pop(INFOTEXT_KEY, None)
    picture_format = cast(PictureFormat, options.text("samples_format"))
    data = encode(
        source.image,
        picture_format,
        infotext if is_told else None,
        quality=math.floor(options.number("jpeg_quality")),
        lossless=options.flag("webp_lossless"),
        texts=texts if is_told else {},
    )
    return Encoded(data, picture_format)
