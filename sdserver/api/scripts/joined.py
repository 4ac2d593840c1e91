"""What scripts that put pictures together share: their request's parts, and the answer about the whole."""

from collections.abc import Sequence
from typing import Any, Final

from PIL import Image

from sdserver.api.limits import MAX_SEED, check_limits
from sdserver.api.requests import Img2ImgRequest
from sdserver.api.scripts.runs import fixed
from sdserver.api.scripts.script import Context, Done, Folder, Outcome, ScriptPicture
from sdserver.errors import InvalidField
from sdserver.images.grid import grid_rows, make_grid
from sdserver.images.pictures import to_image, to_picture

UNKNOWN: Final = -1


def picture_request(context: Context) -> Img2ImgRequest:
    """The client's request, which is one for img2img with a picture, its numbers checked.

    Raises:
        InvalidField: it has no picture, or a field is out of range.
    """
    request = context.request
    check_limits(request, context.sources.config.limits)
    if not isinstance(request, Img2ImgRequest) or not context.pictures:
        raise InvalidField("init_images", "The script begins with a picture: send one in 'init_images'.")
    return request


def with_fixed_seeds(context: Context, request: Img2ImgRequest, seeds: int) -> Img2ImgRequest:
    """The request with seeds that stay the same for all runs.

    Args:
        context: of the script.
        request: what is asked.
        seeds: how many the runs will take, the first of them the request's.

    Raises:
        InvalidField: there are not so many from the request's on.
    """
    if request.seed > MAX_SEED - seeds + 1:
        raise InvalidField("seed", f"The seed is too large: the script takes the next {seeds:,} as well.")
    fields = {"seed": fixed(context, request.seed), "subseed": fixed(context, request.subseed)}
    return request.model_copy(update=fields)


def images_of(done: Done) -> list[Image.Image]:
    """The images of a run, without a grid and masks."""
    pairs = zip(done.pictures[done.first :], done.texts[done.first :], strict=True)
    return [image for image, text in pairs if text is not None]


def whole(
    context: Context,
    pictures: Sequence[Image.Image],
    first: Done,
    last: Done,
    grid: Image.Image | None = None,
) -> Outcome:
    """The answer with pictures of a script's own, described as AUTOMATIC1111 does.

    Its `Processed` has the first run's seed and infotext and else what the last run left; it knows no
    subseed and counts a grid among the images. The pictures' files have no infotext unless they are saved.

    Args:
        context: of the script.
        pictures: the answer's.
        first: the first run.
        last: the last one.
        grid: of the pictures, to be put before them as far as the options say.
    """
    text = infotext_of(first)
    shown = [_picture(context, image, text) for image in pictures]
    if grid is not None:
        shown = [*grid_pictures(context, grid, text), *shown]
    told = sum(picture.is_told for picture in shown)
    return Outcome(tuple(shown), info_of(first, last, told))


def info_of(first: Done, last: Done, pictures: int) -> dict[str, Any]:
    """The `info` of a script that answers with so many pictures of its own; see `whole`."""
    return {
        **last.info,
        "seed": first.info["seed"],
        "subseed": UNKNOWN,
        "index_of_first_image": 0,
        "infotexts": [infotext_of(first)] * pictures,
    }


def infotext_of(done: Done) -> str:
    """The infotext of a run's first image."""
    texts = done.info["infotexts"]
    return str(texts[done.first] if len(texts) > done.first else texts[0])


def grid_of(context: Context, pictures: Sequence[Image.Image], rows: int | None = None) -> Image.Image | None:
    """A grid of pictures, None where the options want none.

    Args:
        context: of the script.
        pictures: some.
        rows: how many; None for as many as the options say.
    """
    options = context.options
    wanted = options.flag("return_grid") or options.flag("grid_save")
    if not pictures or not wanted or (len(pictures) < 2 and options.flag("grid_only_if_multiple")):
        return None
    if rows is None:
        prevents = options.flag("grid_prevent_empty_spots")
        rows = grid_rows(len(pictures), 1, options.number("n_rows"), prevent_empty_spots=prevents)
    cells = [to_picture(picture) for picture in pictures]
    return to_image(make_grid(cells, rows, options.text("grid_background_color")))


def _picture(context: Context, image: Image.Image, text: str) -> ScriptPicture:
    keeps = context.request.save_images and context.options.flag("samples_save")
    folder: Folder | None = "samples" if keeps else None
    return ScriptPicture(image, None, folder, kept_text=text)


def grid_pictures(context: Context, grid: Image.Image, text: str) -> list[ScriptPicture]:
    """The grid as far as the options and the request want it; its saved file has the infotext."""
    keeps = context.request.save_images and context.options.flag("grid_save")
    told = context.options.flag("return_grid")
    if not keeps and not told:
        return []
    return [ScriptPicture(grid, None, "grids" if keeps else None, is_told=told, kept_text=text)]
