"""From what a detector says of its anchors to faces, one box each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

STEPS: Final = (8, 16, 32)
SIZES: Final = ((16, 32), (64, 128), (256, 512))
"""Pixels between anchors, and their sides, by level."""

LEAST_SURE: Final = 0.97
MOST_SHARED: Final = 0.4
"""Of two boxes that overlap by more than this share of both, the less sure one is left out."""

MOST_BOXES: Final = 5000
"""The surest ones, that overlaps are looked for among."""

_CENTRE, _EXTENT = 0.1, 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """What was found.

    Attributes:
        corners: (n, 4): left, top, right, bottom in pixels.
        scores: (n): how sure it is, 0 to 1.
        points: (n, 5, 2): landmarks in pixels.
    """

    corners: Values
    scores: Values
    points: Values

    def taken(self, places: Sequence[int] | NDArray[np.intp] | NDArray[np.bool_]) -> "Boxes":
        """Those at these places, in their order."""
        return Boxes(self.corners[places], self.scores[places], self.points[places])


def anchors(width: int, height: int) -> Values:
    """(n, 3): x and y of every anchor's centre and its side, in the order of the network's values."""
    found = []
    for step, sides in zip(STEPS, SIZES, strict=True):
        columns, rows = -(-width // step), -(-height // step)
        y, x, side = np.meshgrid(np.arange(rows), np.arange(columns), sides, indexing="ij")
        found.append(np.stack([(x + 0.5) * step, (y + 0.5) * step, side], axis=-1).reshape(-1, 3))
    return np.concatenate(found).astype(np.float32)


def boxes_of(scores: Values, moves: Values, points: Values, width: int, height: int) -> Boxes:
    """The faces in a picture, the surest first.

    Args:
        scores: (n): of the anchors.
        moves: (n, 4): of centres and, as logarithms, of sides, in units of the anchor's side.
        points: (n, 10): landmarks' distances from the centre, likewise.
        width: of the picture.
        height: likewise.
    """
    chosen = np.flatnonzero(scores > LEAST_SURE)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:MOST_BOXES]
    origin = anchors(width, height)[chosen]
    centre, side = origin[:, :2], origin[:, 2:]
    with np.errstate(over="ignore", invalid="ignore"):
        middle = centre + moves[chosen, :2] * _CENTRE * side
        extent = side * np.exp(moves[chosen, 2:] * _EXTENT)
        corners = np.concatenate([middle - extent / 2, middle + extent / 2], axis=1)
        landmarks = centre[:, None] + points[chosen].reshape(-1, 5, 2) * _CENTRE * side[:, None]
        found = Boxes(corners, scores[chosen], landmarks)
        sound = np.isfinite(corners).all(axis=1) & np.isfinite(landmarks).all(axis=(1, 2))
    found = found.taken(sound)
    return found.taken(apart(found.corners))


def apart(corners: Values) -> list[int]:
    """Places of the boxes that no earlier one overlaps too much."""
    left, top, right, bottom = corners.astype(np.float64).T
    areas = (right - left) * (bottom - top)
    rest, kept = np.arange(len(corners)), []
    while rest.size:
        first, rest = rest[0], rest[1:]
        kept.append(int(first))
        wide = np.minimum(right[first], right[rest]) - np.maximum(left[first], left[rest])
        high = np.minimum(bottom[first], bottom[rest]) - np.maximum(top[first], top[rest])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        rest = rest[shared <= MOST_SHARED * (areas[first] + areas[rest] - shared)]
    return kept
