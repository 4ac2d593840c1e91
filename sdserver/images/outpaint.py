"""Where a picture grows when it is painted on beyond its borders: the sums of AUTOMATIC1111's scripts."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image, ImageDraw

Side = Literal["left", "right", "up", "down"]
SIDES: Final[tuple[Side, ...]] = ("left", "right", "up", "down")
"""In the order in which they are painted one after the other."""

MULTIPLE: Final = 64
_Sides = tuple[int, int]


def rounded_up(side: int) -> int:
    """The next multiple of 64."""
    return -(-side // MULTIPLE) * MULTIPLE


@dataclass(frozen=True, slots=True)
class Borders:
    """Pixels that are added at each side."""

    left: int
    right: int
    up: int
    down: int

    def of(self, side: Side) -> int:
        """Those of one side."""
        return int(getattr(self, side))

    def around(self, size: _Sides) -> _Sides:
        """The size with the borders."""
        return size[0] + self.left + self.right, size[1] + self.up + self.down


def borders(size: _Sides, pixels: int, sides: Collection[str]) -> Borders:
    """Borders of at least `pixels` where `sides` says, so wide that the whole is a multiple of 64 there.

    What that adds is shared out between opposite sides. A direction without borders stays as it is.
    """
    left, right = _shared(size[0], *(pixels * (side in sides) for side in ("left", "right")))
    up, down = _shared(size[1], *(pixels * (side in sides) for side in ("up", "down")))
    return Borders(left, right, up, down)


def _shared(length: int, before: int, after: int) -> _Sides:
    added = rounded_up(length + before + after) - length
    first = before * added // (before + after) if before else 0
    return first, added - first if after else 0


def frame(size: _Sides, kept: tuple[int, int, int, int]) -> Image.Image:
    """A mask, L: black within `kept`, whose last row and column belong to it, white around it."""
    mask = Image.new("L", size, 255)
    left, top, right, bottom = kept
    if left <= right and top <= bottom:
        ImageDraw.Draw(mask).rectangle(kept, fill=0)
    return mask


@dataclass(frozen=True, slots=True)
class Pass:
    """One side painted, the whole length of the picture at once, over as much depth as one pass takes.

    Attributes:
        side: where the picture grows.
        pixels: by which it does.
        before: its size until then.
        depth: the most that is painted in that direction, new and old together.
        blur: what the border between old and new is moved into the old.
    """

    side: Side
    pixels: int
    before: _Sides
    depth: int
    blur: int

    @property
    def is_across(self) -> bool:
        """Whether it grows in width."""
        return self.side in ("left", "right")

    @property
    def after(self) -> _Sides:
        """The size after it."""
        width, height = self.before
        return (width + self.pixels, height) if self.is_across else (width, height + self.pixels)

    @property
    def canvas(self) -> _Sides:
        """The size that the whole is worked on in: that after it, rounded up."""
        return rounded_up(self.after[0]), rounded_up(self.after[1])

    @property
    def painted(self) -> _Sides:
        """The size of the part that is painted."""
        width, height = self.canvas
        if self.is_across:
            return min(self.depth, self.after[0]), height
        return width, min(self.depth, self.after[1])

    @property
    def corner(self) -> _Sides:
        """Where that part begins on the canvas."""
        return self.corner_of(self.painted)

    def corner_of(self, size: _Sides) -> _Sides:
        """Where a part of some size begins on the canvas."""
        if self.side in ("left", "up"):
            return 0, 0
        return self.canvas[0] - size[0], self.canvas[1] - size[1]

    def canvas_of(self, image: Image.Image) -> Image.Image:
        """The picture on its canvas, RGB; the new part is black."""
        canvas = Image.new("RGB", self.canvas)
        canvas.paste(image, (self.pixels * (self.side == "left"), self.pixels * (self.side == "up")))
        return canvas

    def mask(self) -> Image.Image:
        """Of the canvas, L: white where something new is to be."""
        return self._frame(self.canvas, self.blur)

    def part(self, image: Image.Image) -> Image.Image:
        """What is painted of a picture of the canvas' size."""
        left, top = self.corner
        width, height = self.painted
        return image.crop((left, top, left + width, top + height))

    def latent_mask(self) -> Image.Image:
        """Of the painted part, L: a border further inside the old."""
        return self._frame(self.painted, 2 * self.blur)

    def pasted(self, canvas: Image.Image, painted: Image.Image) -> Image.Image:
        """The canvas with what was painted, cut to the size after the pass."""
        result = canvas.copy()
        result.paste(painted, self.corner_of(painted.size))
        return result.crop((0, 0, *self.after))

    def _frame(self, size: _Sides, inside: int) -> Image.Image:
        border = self.pixels + inside
        return frame(
            size,
            (
                border * (self.side == "left"),
                border * (self.side == "up"),
                size[0] - border if self.side == "right" else self.after[0],
                size[1] - border if self.side == "down" else self.after[1],
            ),
        )


def passes(size: _Sides, added: Borders, depth: _Sides, blur: int) -> list[Pass]:
    """The passes that add borders, one side after the other.

    Args:
        size: of the picture.
        added: the borders; a side without pixels has no pass.
        depth: the most that is painted in width and in height.
        blur: see `Pass`.
    """
    found: list[Pass] = []
    for side in SIDES:
        if added.of(side) > 0:
            most = depth[0] if side in ("left", "right") else depth[1]
            found.append(Pass(side, added.of(side), size, most, blur))
            size = found[-1].after
    return found
