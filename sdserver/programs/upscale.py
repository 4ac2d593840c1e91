"""Enlarging a picture to an exact size, by a filter or by a network."""

from collections.abc import Generator
from typing import Any

from PIL import Image

from sdserver.calls import Upscale
from sdserver.errors import EngineFailure
from sdserver.images.pictures import to_image, to_picture
from sdserver.images.resize import scaled
from sdserver.jobs.events import Picture
from sdserver.jobs.job import USUAL_TILES, Size, UpscalerTiles

CELL = 8
NO_UPSCALER = "None"
FILTERS = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
MAX_ROUNDS = 3


def upscale(
    picture: Picture, size: Size, upscaler: str, path: str, tiles: UpscalerTiles = USUAL_TILES
) -> Generator[Upscale, Any, Picture]:
    """The picture at `size`. What the upscaler leaves to be done, Lanczos does.

    Args:
        picture: of any size.
        size: wanted.
        upscaler: "None" (Lanczos alone), "Lanczos", "Nearest", or a network's name.
        path: the network's file, empty for the others.
        tiles: for a network.

    Raises:
        EngineFailure: there is no such upscaler.
    """
    scale = max(size.width / picture.width, size.height / picture.height)
    if upscaler != NO_UPSCALER and scale > 1:
        picture = yield from enlarged_by(picture, scale, upscaler, path, tiles)
    return _resized(picture, size.width, size.height, Image.Resampling.LANCZOS)


def enlarged_by(
    picture: Picture, scale: float, upscaler: str, path: str, tiles: UpscalerTiles = USUAL_TILES
) -> Generator[Upscale, Any, Picture]:
    """The picture enlarged by `scale` to whole cells of 8 pixels, as AUTOMATIC1111 does before it fits
    the result to the exact size: a network is applied until the picture is large enough, once if `scale`
    is 1.
    """
    width, height = (int(side * scale // CELL * CELL) for side in (picture.width, picture.height))
    for done in range(MAX_ROUNDS):
        if picture.width >= width and picture.height >= height and (done or scale != 1):
            break
        before = (picture.width, picture.height)
        if path:
            picture = yield Upscale(path, picture, tiles)
        elif upscaler in FILTERS:
            picture = _resized(picture, int(before[0] * scale), int(before[1] * scale), FILTERS[upscaler])
        else:
            raise EngineFailure(f"There is no upscaler {upscaler!r}: choose another one.")
        if (picture.width, picture.height) == before:
            break
    return _resized(picture, width, height, Image.Resampling.LANCZOS)


def _resized(picture: Picture, width: int, height: int, resample: Image.Resampling) -> Picture:
    if (picture.width, picture.height) == (width, height):
        return picture
    return to_picture(scaled(to_image(picture), width, height, resample))
