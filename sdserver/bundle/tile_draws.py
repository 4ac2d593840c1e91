"""Into how many tiles self-attention is split: AUTOMATIC1111's Hypertile, draw for draw."""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from sdserver.jobs.model import Attention, TileRule

CELL: Final = 8
LEAST_TILE: Final = 128
"""Pixels a side."""


class Tiled(NamedTuple):
    """A layer's tokens as a grid of tiles.

    Attributes:
        height, width: of the grid of tokens.
        down, across: tiles in each direction.
    """

    height: int
    width: int
    down: int
    across: int

    @property
    def is_whole(self) -> bool:
        """Whether there is but one tile."""
        return self.down * self.across == 1


class Place(NamedTuple):
    """A layer as far as tiles depend on it: its tokens, and its depth as A1111 counts it."""

    tokens: int
    depth: int


class TileDraws:
    """The draws of one pass: every evaluation of the network goes on where the one before it stopped.

    A1111 draws anew in every layer of every evaluation, from one generator per request.

    Args:
        rule: of the UNet.
        attention: gives the pass's size and the seed.
        places: the layers that are tiled, in the order in which they run.
    """

    def __init__(self, rule: TileRule, attention: Attention, places: Sequence[Place]) -> None:
        self._swap = rule.swap
        self._places = places
        self._least = least_side(rule, attention)
        self._proportion = attention.width / attention.height
        self._generator = random.Random(attention.seed)
        self._drawn: list[tuple[Tiled, ...]] = []

    def at(self, evaluation: int) -> tuple[Tiled, ...]:
        """Each layer's tiles in an evaluation, counted from 0."""
        while len(self._drawn) <= evaluation:
            self._drawn.append(tuple(self._draw(place) for place in self._places))
        return self._drawn[evaluation]

    def _draw(self, place: Place) -> Tiled:
        height, width = grid(place.tokens, self._proportion)
        least = self._least << place.depth
        down = draw_count(height, least, self._swap, self._generator)
        return Tiled(height, width, down, draw_count(width, least, self._swap, self._generator))


def least_side(rule: TileRule, attention: Attention) -> int:
    """Of a tile, in cells of the latent: of the sides that divide the picture by powers of two the largest
    one within the limit.
    """
    common = math.gcd(attention.width, attention.height)
    return max(LEAST_TILE, min(common & -common, rule.max_tile)) // CELL


def draw_count(side: int, least: int, swap: int, generator: random.Random) -> int:
    """How many tiles a side is split into: one of the largest counts that leave tiles of at least `least`."""
    counts = _counts(side, min(least, side), swap)
    return counts[generator.randint(0, len(counts) - 1)]


@lru_cache(maxsize=1024)
def _counts(side: int, least: int, swap: int) -> tuple[int, ...]:
    sides = (length for length in range(least, side + 1) if side % length == 0)
    return tuple(side // length for length, _ in zip(sides, range(swap), strict=False))


@lru_cache(maxsize=1024)
def grid(tokens: int, proportion: float) -> tuple[int, int]:
    """Height and width of a grid of so many tokens. As in A1111, which takes the picture's width divided by
    its height for the grid's height divided by its width, so that only square pictures are cut into squares.
    """
    height, width = round(math.sqrt(tokens * proportion)), round(math.sqrt(tokens / proportion))
    if height * width == tokens:
        return height, width
    if height and tokens % height == 0:
        return height, tokens // height
    if width and tokens % width == 0:
        return tokens // width, width
    heights = [height for height in range(2, tokens + 1) if tokens % height == 0]
    nearest = min(heights, key=lambda height: abs(tokens // height / height - proportion), default=1)
    return nearest, tokens // nearest
