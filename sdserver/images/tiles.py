"""A picture as overlapping tiles, and the tiles put together again, as AUTOMATIC1111 does both."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True)
class Tile:
    """A piece of a picture. `left` and `top` may be negative: what lies outside the picture is black."""

    left: int
    top: int
    image: Image.Image


@dataclass(frozen=True, slots=True)
class Tiles:
    """A picture in tiles of equal size.

    Attributes:
        width, height: of the whole picture.
        overlap: how many pixels neighbours blend over; they share at least so many.
        rows: from top to bottom, each from left to right, at least one tile.
    """

    width: int
    height: int
    overlap: int
    rows: tuple[tuple[Tile, ...], ...]


def split(image: Image.Image, tile_width: int, tile_height: int, overlap: int) -> Tiles:
    """Cut a picture into tiles that are spread evenly over it.

    Args:
        image: of any size, also smaller than a tile.
        tile_width: in pixels.
        tile_height: in pixels.
        overlap: less than the tile's sides.
    """
    lefts = _starts(image.width, tile_width, overlap)
    rows = tuple(
        tuple(
            Tile(left, top, image.crop((left, top, left + tile_width, top + tile_height))) for left in lefts
        )
        for top in _starts(image.height, tile_height, overlap)
    )
    return Tiles(image.width, image.height, overlap, rows)


def enlarged(tiles: Tiles, images: Sequence[Sequence[Image.Image]], factor: int) -> Tiles:
    """The tiles of a picture larger by `factor`, with new images in the same order."""
    rows = tuple(
        tuple(
            Tile(tile.left * factor, tile.top * factor, image) for tile, image in zip(row, own, strict=True)
        )
        for row, own in zip(tiles.rows, images, strict=True)
    )
    return Tiles(tiles.width * factor, tiles.height * factor, tiles.overlap * factor, rows)


def replaced(tiles: Tiles, images: Sequence[Image.Image]) -> Tiles:
    """The tiles with new images, in the order of the rows; those beyond them stay as they are."""
    left = iter(images)
    rows = tuple(
        tuple(Tile(tile.left, tile.top, next(left, tile.image)) for tile in row) for row in tiles.rows
    )
    return Tiles(tiles.width, tiles.height, tiles.overlap, rows)


def tile_count(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> int:
    """How many tiles `split` makes of a picture; both sizes are width and height."""
    across, down = (_count(*lengths, overlap) for lengths in zip(size, tile, strict=True))
    return across * down


def combine(tiles: Tiles) -> Image.Image:
    """Put the tiles together, RGB. Each fades in over its first `overlap` columns and rows, unless it
    begins at the picture's border.
    """
    whole = Image.new("RGB", (tiles.width, tiles.height))
    for row in tiles.rows:
        strip = Image.new("RGB", (tiles.width, row[0].image.height))
        for tile in row:
            _fade_in(strip, tile.image, tile.left, tiles.overlap, across=True)
        _fade_in(whole, strip, row[0].top, tiles.overlap, across=False)
    return whole


def _count(length: int, tile: int, overlap: int) -> int:
    return max(1, ceil((length - overlap) / (tile - overlap)))


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side. One that is longer than the side ends where the side does."""
    count = _count(length, tile, overlap)
    step = (length - tile) / (count - 1) if count > 1 else 0
    return [min(int(index * step), length - tile) for index in range(count)]


def _fade_in(onto: Image.Image, image: Image.Image, start: int, overlap: int, *, across: bool) -> None:
    """Paste an image that begins at `start` along one side, from the very border on the other."""
    if start == 0 or overlap == 0:
        onto.paste(image, (start, 0) if across else (0, start))
        return
    ramp = (np.arange(overlap, dtype=np.float32) * 255 / overlap).astype(np.uint8)
    if across:
        mask = np.repeat(ramp[np.newaxis], image.height, axis=0)
        edge, rest = (0, 0, overlap, image.height), (overlap, 0, image.width, image.height)
        places = (start, 0), (start + overlap, 0)
    else:
        mask = np.repeat(ramp[:, np.newaxis], image.width, axis=1)
        edge, rest = (0, 0, image.width, overlap), (0, overlap, image.width, image.height)
        places = (0, start), (0, start + overlap)
    onto.paste(image.crop(edge), places[0], mask=Image.fromarray(mask))
    onto.paste(image.crop(rest), places[1])
