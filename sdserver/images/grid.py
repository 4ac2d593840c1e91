"""AUTOMATIC1111's contact sheet of a batch."""

import math
from collections.abc import Sequence

from PIL import Image, ImageColor

from sdserver.jobs.events import Picture


def grid_rows(count: int, batch_size: int, rows: float = -1, *, prevent_empty_spots: bool = False) -> int:
    """How many rows `count` pictures get, by AUTOMATIC1111's rule.

    Args:
        count: at least 1.
        batch_size: of the request.
        rows: the option `n_rows`: a number of rows, 0 for the batch size, -1 for about as many rows
            as columns.
        prevent_empty_spots: with -1, take the largest number of rows that leaves no gap.
    """
    if rows > 0:
        wanted = int(rows)
    elif rows == 0:
        wanted = batch_size
    elif prevent_empty_spots:
        wanted = math.isqrt(count)
        while count % wanted:
            wanted -= 1
    else:
        wanted = round(math.sqrt(count))
    return max(1, min(wanted, count))


def make_grid(pictures: Sequence[Picture], rows: int, background: str = "#ffffff") -> Picture:
    """Lay pictures out row by row; cells are as large as the largest picture.

    Raises:
        ValueError: no pictures, or `background` is not a colour.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    columns = math.ceil(len(pictures) / rows)
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    color = ImageColor.getcolor(background, "RGB")
    sheet = Image.new("RGB", (columns * width, rows * height), color)
    for index, picture in enumerate(pictures):
        cell = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
        sheet.paste(cell, (index % columns * width, index // columns * height))
    return Picture(sheet.width, sheet.height, sheet.tobytes())
