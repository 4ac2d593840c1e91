"""The three axes of a plot as a request describes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Final

from sdserver.api.scripts.checks import refused
from sdserver.api.scripts.grids import Label, Labels
from sdserver.api.scripts.ranges import join_list, numbers, split_list, whole_numbers
from sdserver.api.scripts.runs import fixed
from sdserver.api.scripts.script import Context
from sdserver.api.scripts.xyz_axes import MAX_WORDS, Axis, shown
from sdserver.api.translate.noise import RANDOM
from sdserver.images.infotext import InfoValue

MAX_TEXT: Final = 50_000
"""Characters of an axis's values."""
_SEEDS: Final = frozenset({"Seed", "Var. seed"})


@dataclass(frozen=True, slots=True)
class Side:
    """An axis of the plot.

    Attributes:
        letter: X, Y or Z.
        values: at least one.
        text: the values as the client wrote them.
        fixes_seeds: whether random seeds among the values were drawn once.
    """

    letter: str
    axis: Axis
    values: Sequence[Any]
    text: str
    fixes_seeds: bool

    @property
    def labels(self) -> Labels:
        """For the legend."""
        return [[Label(shown(self.axis, value))] for value in self.values]

    @property
    def told(self) -> dict[str, InfoValue]:
        """What the grid's infotext says of it."""
        if self.axis.kind == "none":
            return {}
        told = {f"{self.letter} Type": self.axis.label, f"{self.letter} Values": self.text}
        if self.axis.label in _SEEDS and self.fixes_seeds:
            told[f"Fixed {self.letter} Values"] = ", ".join(map(str, self.values))
        return dict(told)


def read_side(
    context: Context, letter: str, axis: Axis, text: str, chosen: object, *, as_text: bool, fixes_seeds: bool
) -> Side:
    """Read the two arguments that hold an axis's values: text, and a list for those with choices.

    Args:
        context: of the script.
        letter: X, Y or Z.
        axis: its kind.
        text: the values as text.
        chosen: the values as a list.
        as_text: the text counts for those with choices too.
        fixes_seeds: draw random seeds now, once for all cells.

    Raises:
        InvalidField: the values cannot be used, or there are none.
    """
    if axis.kind == "none":
        return Side(letter, axis, (0,), "", fixes_seeds)
    listed = _listed(chosen) if axis.has_choices and not as_text else []
    if listed:
        text = join_list(listed)
    found = _read(axis, listed or split_list(text))
    if not found:
        raise refused(f"The axis {letter} ({axis.label}) has no values: write some, separated by commas.")
    if axis.label in _SEEDS and fixes_seeds:
        found = [fixed(context, seed) if seed == RANDOM else seed for seed in found]
    return Side(letter, axis, found, text, fixes_seeds)


def _listed(given: object) -> list[str]:
    """The list of chosen values; a single one may stand without a list."""
    items = [given] if isinstance(given, str) else given
    if items is None or items == [""]:
        return []
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise refused("The values chosen for an axis must be a list of texts.")
    if sum(len(item) + 3 for item in items) > MAX_TEXT:
        raise refused(f"The values chosen for an axis are too long: at most {MAX_TEXT:,} characters.")
    return items


def _read(axis: Axis, items: list[str]) -> Sequence[Any]:
    match axis.kind:
        case "whole":
            return whole_numbers(items)
        case "number":
            return numbers(items)
        case "orders":
            if len(items) > MAX_WORDS:
                raise refused(f"{axis.label} takes at most {MAX_WORDS} words, not {len(items)}.")
            return list(permutations(items)) if items else []
        case _:
            return items
