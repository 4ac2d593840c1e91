"""Composition: `a AND b:0.5` asks for several texts at once, each with a weight."""

import re
from dataclasses import dataclass

from sdserver.errors import InvalidField
from sdserver.prompt.attention import MAX_WEIGHT

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"[-+]?+(?:\d++(?:\.\d*+)?+|\.\d++)")


@dataclass(frozen=True, slots=True)
class WeightedText:
    """One of the texts that a prompt is composed of."""

    text: str
    weight: float


def split_composition(prompt: str) -> tuple[WeightedText, ...]:
    """Split a positive prompt at each word AND (capitals); at least one part.

    A part may end in `:` and its weight, 1 if it does not; white space at its end is dropped, that at its
    start is kept. Follows AUTOMATIC1111.

    Raises:
        InvalidField: a weight exceeds `attention.MAX_WEIGHT`.
    """
    return tuple(_weighted(part) for part in _AND.split(prompt))


def _weighted(part: str) -> WeightedText:
    text, colon, number = part.rpartition(":")
    if not colon or _WEIGHT.fullmatch(number.strip()) is None:
        return WeightedText(part.rstrip(), 1.0)
    weight = float(number)
    if abs(weight) > MAX_WEIGHT:
        raise InvalidField("prompt", f"The prompt has an AND weight above {MAX_WEIGHT:,.0f}: lower it.")
    return WeightedText(text.rstrip(), weight)
