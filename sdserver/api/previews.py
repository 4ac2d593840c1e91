"""The latest preview of a request, as a file."""

from typing import Final

from sdserver.api.answer.answer import Encoded
from sdserver.api.entry import Entry
from sdserver.api.progress import watch
from sdserver.api.services import Services
from sdserver.images.codec import FORMATS, PictureFormat, encode
from sdserver.images.grid import grid_rows, make_grid
from sdserver.jobs.events import Picture

QUALITY: Final = 80


async def latest_preview(services: Services, entry: Entry) -> Encoded | None:
    """The preview to be shown of an entry now, None if there is none yet.

    Asking for one has them made from then on. Several images are shown as a grid, or the first alone
    without the option `show_progress_grid`.
    """
    options = services.options.snapshot()
    watch(entry, options)
    pictures = entry.previews
    if not pictures or not options.flag("live_previews_enable"):
        return None
    wanted = options.text("live_previews_image_format")
    picture_format: PictureFormat = wanted if wanted in FORMATS else "png"
    if not options.flag("show_progress_grid"):
        pictures = pictures[:1]
    made_from = (entry.preview_step, len(pictures), picture_format)
    known = entry.preview_file
    if known is not None and known[0] == made_from:
        return known[1]
    encoded = await services.in_thread(lambda: _encoded(pictures, picture_format))
    if not entry.is_over:
        entry.preview_file = (made_from, encoded)
    return encoded


def _encoded(pictures: tuple[Picture, ...], picture_format: PictureFormat) -> Encoded:
    """Blocks."""
    picture = pictures[0]
    if len(pictures) > 1:
        picture = make_grid(pictures, grid_rows(len(pictures), len(pictures)))
    return Encoded(encode(picture, picture_format, quality=QUALITY), picture_format)
