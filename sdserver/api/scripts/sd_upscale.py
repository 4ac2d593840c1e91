"""AUTOMATIC1111's "SD upscale": the picture is enlarged and its tiles are painted over."""

from collections.abc import Sequence
from typing import Any, Final

from PIL import Image

from sdserver.api.requests import Img2ImgRequest
from sdserver.api.scripts.checks import Values, check_size, refused
from sdserver.api.scripts.joined import images_of, picture_request, whole, with_fixed_seeds
from sdserver.api.scripts.script import Argument, Context, Done, Enlarging, Run, Script, Steps
from sdserver.api.translate.hires import SIMPLE_UPSCALERS
from sdserver.api.translate.plan import Given, Sources
from sdserver.images.overlay import flatten
from sdserver.images.tiles import Tiles, combine, replaced, split, tile_count

MOST_SCALE: Final = 64


def upscaler_names(sources: Sources) -> list[str]:
    """Those of `GET /sdapi/v1/upscalers`, in its order."""
    return [*SIMPLE_UPSCALERS, *(file.name for file in sources.networks.upscalers())]


ARGUMENTS: Final = (
    Argument(
        "",
        '<p style="margin-bottom:0.75em">Will upscale the image by the selected scale factor; use width and '
        "height sliders to set tile size</p>",
    ),
    Argument("Tile overlap", 64, 0, 256, 16),
    Argument("Upscaler", "None", choices=upscaler_names),
    Argument("Scale Factor", 2.0, 1.0, 4.0, 0.05),
)


def begin(context: Context, arguments: Sequence[Any]) -> Steps:
    """Check the arguments and plan the tiles; see `Script.begin`."""
    values = Values(ARGUMENTS, arguments)
    request, limits = picture_request(context), context.sources.config.limits
    overlap = values.whole(1, 0, max(limits.max_width, limits.max_height))
    upscaler = _upscaler(context, arguments[2])
    scale = values.number(3, 0, MOST_SCALE)
    tile = (request.width, request.height)
    if overlap >= min(tile):
        message = "'Tile overlap' must be less than 'width' and 'height', which are the size of a tile."
        raise refused(message)
    width, height = context.pictures[0].size
    if upscaler != SIMPLE_UPSCALERS[0]:
        width, height = int(width * scale), int(height * scale)
    check_size(context, width, height, request.n_iter)
    tiles = tile_count((width, height), tile, overlap)
    context.expect(tiles * request.n_iter)
    extra = {"SD upscale overlap": overlap, "SD upscale upscaler": upscaler}
    flat = flatten(context.pictures[0], context.options.text("img2img_background_color"))
    enlarging = Enlarging(flat, scale, upscaler)
    fixed = with_fixed_seeds(context, request, tiles + request.n_iter + request.batch_size)
    return _steps(context, fixed, enlarging, overlap, extra)


def _upscaler(context: Context, asked: object) -> str:
    """The upscaler's own name: it counts in any case, and its place in the list names it too.

    Raises:
        RequestError: there is none such, or its file may not be read.
    """
    names = upscaler_names(context.sources)
    if asked is None:
        return names[0]
    if isinstance(asked, int) and not isinstance(asked, bool) and 0 <= asked < len(names):
        return names[asked]
    found = [name for name in names if isinstance(asked, str) and name.lower() == asked.lower()]
    if not found:
        if isinstance(asked, str):
            context.sources.networks.find_upscaler(asked)  # says so of one whose file is not allowed
        shown = f" {asked[:100]!r}" if isinstance(asked, str) else " of that kind"
        raise refused(f"There is no upscaler{shown}; GET /sdapi/v1/upscalers lists those there are.")
    return found[0]


def _steps(
    context: Context, request: Img2ImgRequest, enlarging: Enlarging, overlap: int, extra: dict[str, Any]
) -> Steps:
    large: Image.Image = yield enlarging
    tiles = split(large, request.width, request.height, overlap)
    context.expect(sum(map(len, tiles.rows)) * request.n_iter)
    results: list[Image.Image] = []
    first: Done | None = None
    last: Done | None = None
    for again in range(request.n_iter):
        seeded = request.model_copy(update={"n_iter": 1, "seed": request.seed + again})
        runs = _runs(seeded, tiles, context.mask, extra)
        done: list[Done] = yield runs
        first, last = first or done[0], done[-1]
        if again == 0 or any(one.pictures for one in done):
            results.append(combine(replaced(tiles, _painted(runs, done))))
        if context.is_interrupted():
            break
    assert first is not None and last is not None  # noqa: S101, PT018 - n_iter is at least 1
    return whole(context, results, first, last)


def _runs(
    request: Img2ImgRequest, tiles: Tiles, mask: Image.Image | None, extra: dict[str, Any]
) -> list[Run]:
    """The tiles in batches; the seed of a batch is one above that of the batch before."""
    images = [tile.image for row in tiles.rows for tile in row]
    size = request.batch_size
    runs: list[Run] = []
    for place, start in enumerate(range(0, len(images), size)):
        batch = tuple(images[start : start + size])
        fields = {"seed": request.seed + place, "batch_size": size if len(batch) > 1 else 1}
        runs.append(Run(request.model_copy(update=fields), Given(pictures=batch, mask=mask, extra=extra)))
    return runs


def _painted(runs: Sequence[Run], done: Sequence[Done]) -> list[Image.Image]:
    """The tiles in order; those that were not painted as they were."""
    found: list[Image.Image] = []
    for run, one in zip(runs, done, strict=True):
        painted = images_of(one)[: len(run.given.pictures)]
        found += [*painted, *run.given.pictures[len(painted) :]]
    return found


SCRIPT: Final = Script("SD upscale", ("img2img",), ARGUMENTS, begin)
