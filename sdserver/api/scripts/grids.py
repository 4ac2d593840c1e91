"""Sheets of pictures with a legend, laid out by AUTOMATIC1111's rules.

Columns have their labels above, rows left of them, in a type as large as the cells ask for. The typeface
is the one that Pillow brings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from sdserver.api.options import Snapshot
from sdserver.api.scripts.checks import refused
from sdserver.api.scripts.script import Context

MAX_LABEL: Final = 300
"""Characters of a label that are drawn."""
MAX_LINES: Final = 24
"""Lines of a column's or row's labels that are drawn."""
MAX_FONT: Final = 1000
"""Pixels; cells that would have a larger one are refused when the sheet's size is known."""

_STRIKE_WIDTH: Final = 4

Box = tuple[int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Label:
    """A text of the legend.

    Attributes:
        is_active: others are pale and struck out.
    """

    text: str
    is_active: bool = True


Labels = Sequence[Sequence[Label]]
"""Those of each column, or of each row."""


@dataclass(frozen=True, slots=True)
class _Line:
    label: Label
    size: Box
    room: int


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines of a column's or row's labels."""

    lines: tuple[_Line, ...]
    spacing: int

    @property
    def height(self) -> int:
        """With the space between the lines."""
        return sum(line.size[1] + self.spacing for line in self.lines)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is.

    Attributes:
        cell: width and height of each.
        margin: pixels between cells.
        pads: pixels left of the cells and above them.
    """

    cell: Box
    margin: int
    font_size: int
    pads: Box
    columns: tuple[_Block, ...]
    rows: tuple[_Block, ...]

    @property
    def size(self) -> Box:
        """Of the sheet."""
        gaps = (self.margin * (len(self.columns) - 1), self.margin * (len(self.rows) - 1))
        width = self.cell[0] * len(self.columns) + self.pads[0] + gaps[0]
        return width, self.cell[1] * len(self.rows) + self.pads[1] + gaps[1]

    def place(self, column: int, row: int) -> Box:
        """The upper left corner of a cell."""
        (left, top), (width, height), margin = self.pads, self.cell, self.margin
        return left + (width + margin) * column, top + (height + margin) * row


def layout(cell: Box, columns: Labels, rows: Labels, margin: int = 0) -> Layout:
    """Lay a sheet out.

    Args:
        cell: width and height of each.
        columns: their labels, at least one, which may be empty.
        rows: as `columns`.
        margin: pixels between cells.
    """
    width, height = cell
    font_size = min(MAX_FONT, max(1, (width + height) // 25))
    spacing = font_size // 2
    left = width * 3 // 4 if any(label.text for labels in rows for label in labels) else 0
    above = tuple(_block(labels, font_size, width) for labels in columns)
    beside = tuple(_block(labels, font_size, left) for labels in rows)
    tallest = max(block.height - spacing for block in above)
    drawn = any(block.height - spacing for block in above)
    return Layout(cell, margin, font_size, (left, tallest + spacing * 2 if drawn else 0), above, beside)


def sheet(images: Sequence[Image.Image | None], laid: Layout, options: Snapshot) -> Image.Image:
    """Draw a sheet. Smaller pictures stand in the middle of their cells, missing ones are black.

    Args:
        images: row by row.
        laid: the layout.
        options: give the colours.
    """
    result = Image.new("RGB", laid.size, options.text("grid_background_color"))
    width, height = laid.cell
    for index, image in enumerate(images):
        left, top = laid.place(index % len(laid.columns), index // len(laid.columns))
        shown = Image.new("RGB", laid.cell) if image is None else image
        result.paste(shown, (left + (width - shown.width) // 2, top + (height - shown.height) // 2))
    pen = _Pen(result, laid.font_size, options)
    pad_left, pad_top = laid.pads
    spacing = laid.font_size // 2
    for column, block in enumerate(laid.columns):
        x = laid.place(column, 0)[0] + width / 2
        pen.write(block, x, pad_top / 2 - (block.height - spacing) / 2)
    for row, block in enumerate(laid.rows):
        y = laid.place(0, row)[1] + height / 2
        pen.write(block, pad_left / 2, y - (block.height - spacing * len(block.lines)) / 2)
    return result


def blank(count: int) -> Labels:
    """No labels for so many columns or rows."""
    return [[Label("")]] * count


def cell_of(images: Sequence[Image.Image | None]) -> Box | None:
    """The size that all pictures fit in, None where all are missing."""
    sizes = [image.size for image in images if image is not None]
    return (max(w for w, _ in sizes), max(h for _, h in sizes)) if sizes else None


def check_sheet(context: Context, size: Box, count: int = 1) -> None:
    """See that sheets are not too large, by the option `img_max_size_mp` and the server's limits.

    Raises:
        InvalidField: they are.
    """
    limits, megapixels = context.sources.config.limits, context.options.number("img_max_size_mp")
    most = min(megapixels * 1e6, limits.max_pixels * limits.max_images)
    if size[0] * size[1] * count > most:
        shown = f"{size[0]:,} x {size[1]:,} pixels" + (f" times {count:,}" if count > 1 else "")
        message = f"The grid would be too large: {shown}, at most {int(most):,} pixels are allowed."
        raise refused(f"{message} Ask for fewer or smaller pictures, or smaller margins.")


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _measure(text: str, size: int) -> Box:
    """Width and height of what is drawn of a line."""
    left, top, right, bottom = _font(size).getbbox(text) if text else (0, 0, 0, 0)
    return math.ceil(right - left), math.ceil(bottom - top)


def _block(labels: Sequence[Label], font_size: int, room: int) -> _Block:
    lines = [
        _Line(Label(text, label.is_active), _measure(text, font_size), room)
        for label in labels
        for text in _wrapped(label.text[:MAX_LABEL], font_size, room)
    ]
    return _Block(tuple(lines[:MAX_LINES]), font_size // 2)


def _wrapped(text: str, font_size: int, room: int) -> list[str]:
    """Lines that fit where their words allow it. A first word that does not has an empty line above."""
    font, lines = _font(font_size), [""]
    for word in text.split():
        line = f"{lines[-1]} {word}".strip()
        if font.getlength(line) <= room:
            lines[-1] = line
        else:
            lines.append(word)
    return lines


class _Pen:
    """Writes on a sheet."""

    def __init__(self, image: Image.Image, font_size: int, options: Snapshot) -> None:
        self._drawing = ImageDraw.Draw(image)
        self._font_size = font_size
        self._active = options.text("grid_text_active_color")
        self._inactive = options.text("grid_text_inactive_color")

    def write(self, block: _Block, x: float, y: float) -> None:
        """Write lines below each other, in the middle of `x`."""
        for line in block.lines:
            width, height = line.size
            color = self._active if line.label.is_active else self._inactive
            font = _font(_fitting(line, self._font_size))
            self._drawing.text((x, y + height / 2), line.label.text, font=font, fill=color, anchor="mm")
            if not line.label.is_active:
                middle = y + height // 2
                ends = (x - width // 2, middle, x + width // 2, middle)
                self._drawing.line(ends, fill=color, width=_STRIKE_WIDTH)
            y += height + block.spacing


def _fitting(line: _Line, font_size: int) -> int:
    """The font size at which a line fits its room, the given one or less."""
    width, _ = line.size
    if width <= line.room:
        return font_size
    # Widths grow about evenly with the size, so the search can begin near its end.
    size = min(font_size, font_size * line.room // width + 2)
    while size > 1 and _measure(line.label.text, size)[0] > line.room:
        size -= 1
    return max(size, 1)
