"""AUTOMATIC1111's "Outpainting mk2": the picture grows side by side over noise that continues it."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from sdserver.api.requests import Img2ImgRequest
from sdserver.api.scripts.checks import Values, check_size, refused
from sdserver.api.scripts.joined import grid_of, images_of, picture_request, whole
from sdserver.api.scripts.script import Argument, Context, Done, Run, Script, Steps
from sdserver.api.translate.plan import Given
from sdserver.errors import InvalidField
from sdserver.images.matched_noise import with_noise
from sdserver.images.outpaint import SIDES, Pass, borders, passes
from sdserver.images.pictures import content_hash

ARGUMENTS: Final = (
    Argument(
        "",
        '<p style="margin-bottom:0.75em">Recommended settings: Sampling Steps: 80-100, Sampler: Euler a, '
        "Denoising strength: 0.8</p>",
    ),
    Argument("Pixels to expand", 128, 8, 256, 8),
    Argument("Mask blur", 8, 0, 64, 1),
    Argument("Outpainting direction", list(SIDES), choices=SIDES),
    Argument("Fall-off exponent (lower=higher detail)", 1.0, 0.0, 4.0, 0.01),
    Argument("Color variation", 0.05, 0.0, 1.0, 0.01),
)
BLUR: Final = 4
"""The mask is blurred by so many times what is asked for."""
MOST_BLUR: Final = 128
MOST_FALLOFF: Final = 10
ORIGINAL: Final = 1
"""`inpainting_fill`: what stands in the masked area is painted over as it is."""


@dataclass(frozen=True, slots=True)
class _Noise:
    falloff: float
    colour_variation: float


@dataclass(slots=True, eq=False)
class _Growing:
    """One image on its way.

    Attributes:
        is_painted: whether at least one side was.
    """

    image: Image.Image
    is_painted: bool = False


def begin(context: Context, arguments: Sequence[Any]) -> Steps:
    """Check the arguments and plan the passes; see `Script.begin`."""
    values = Values(ARGUMENTS, arguments)
    request, limits = picture_request(context), context.sources.config.limits
    pixels = values.whole(1, 1, max(limits.max_width, limits.max_height))
    blur = values.whole(2, 0, MOST_BLUR)
    sides = values.choices(3, SIDES)
    noise = _Noise(values.number(4, 0, MOST_FALLOFF), values.number(5, 0, 1))
    size = context.pictures[0].size
    added = borders(size, pixels, sides)
    steps = passes(size, added, (request.width, request.height), blur)
    images = request.batch_size * request.n_iter
    check_size(context, *added.around(size), images)
    for step in steps:
        _check(context, step)
    context.expect(len(steps) * images)
    blurred = {
        "mask_blur": None,
        "mask_blur_x": blur * BLUR * any(step.is_across for step in steps),
        "mask_blur_y": blur * BLUR * (not all(step.is_across for step in steps)),
    }
    fields = {"n_iter": 1, "inpaint_full_res": False, "inpainting_fill": ORIGINAL, **blurred}
    return _steps(context, request.model_copy(update=fields), request.n_iter, steps, noise)


def _check(context: Context, step: Pass) -> None:
    """See that a pass can be run, and that its canvas is not too large for the noise."""
    limits = context.sources.config.limits
    (width, height), canvas = step.painted, step.canvas
    fits = width <= limits.max_width and height <= limits.max_height
    if not fits or max(width * height, canvas[0] * canvas[1]) > limits.max_pixels:
        message = (
            f"Growing to {canvas[0]:,} x {canvas[1]:,} pixels is too much for one pass: send a smaller "
            "picture, or choose fewer 'Pixels to expand'."
        )
        raise refused(message)
    if min(width, height) < limits.min_side:
        raise InvalidField("width", f"A pass must be at least {limits.min_side} pixels wide and high.")


def _steps(
    context: Context, request: Img2ImgRequest, batches: int, steps: Sequence[Pass], noise: _Noise
) -> Steps:
    """Grow all batches side by side; every batch has the request's seeds, as in AUTOMATIC1111."""
    size = request.batch_size
    growing = [[_Growing(context.pictures[0]) for _ in range(size)] for _ in range(batches)]
    first: Done | None = None
    last: Done | None = None
    for step in steps:
        if step is not steps[0] and context.is_interrupted():
            break
        canvases = yield from _canvases(growing, step, noise)
        done: list[Done] = yield [_run(request, step, batch) for batch in canvases]
        first, last = first or done[0], done[-1]
        for images, canvas, found in zip(growing, canvases, done, strict=True):
            # Those that were stopped stay as they were.
            for image, ground, painted in zip(images, canvas, images_of(found), strict=False):
                image.image, image.is_painted = step.pasted(ground, painted), True
    assert first is not None and last is not None  # noqa: S101, PT018 - there is at least one pass
    pictures = [image.image for images in growing for image in images if image.is_painted]
    return whole(context, pictures, first, last, grid_of(context, pictures))


def _canvases(
    growing: list[list[_Growing]], step: Pass, noise: _Noise
) -> Generator[Sequence[Run], Any, list[list[Image.Image]]]:
    """What the next pass begins with; the same picture has the same noise."""
    mask = step.mask()
    known: dict[str, Image.Image] = {}
    canvases: list[list[Image.Image]] = []
    for images in growing:
        canvases.append([])
        for image in images:
            ground = step.canvas_of(image.image)
            key = content_hash(ground)
            if key not in known:
                known[key] = with_noise(ground, mask, noise.falloff, noise.colour_variation)
                yield ()
            canvases[-1].append(known[key])
    return canvases


def _run(request: Img2ImgRequest, step: Pass, canvases: Sequence[Image.Image]) -> Run:
    width, height = step.painted
    given = Given(
        pictures=tuple(step.part(canvas) for canvas in canvases),
        mask=step.part(step.mask()),
        latent_mask=step.latent_mask(),
    )
    return Run(request.model_copy(update={"width": width, "height": height}), given)


SCRIPT: Final = Script("Outpainting mk2", ("img2img",), ARGUMENTS, begin)
