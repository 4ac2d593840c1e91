"""Emphasis: which weight each piece of a prompt has.

The syntax is AUTOMATIC1111's: `(x)` multiplies by 1.1, `[x]` divides by 1.1, `(x:1.3)` multiplies by
1.3; brackets nest and may cross. A backslash makes a bracket or a backslash literal. Brackets left
open reach to the end, closing ones without a partner are text.

One deviation: where AUTOMATIC1111 fails with an internal error because a weight is no number, as in
`(a:1.2.3)`, the colon and what follows are text and the bracket weighs 1.1, as in `(a:b)`.
"""

import re
from dataclasses import dataclass, field

from sdserver.errors import InvalidField

BREAK = ("BREAK", -1.0)
"""The segment that ends a chunk. Inside weighted brackets its weight changes and it is a plain word."""

MAX_DEPTH = 100
MAX_WEIGHT = 1e6

Segment = tuple[str, float]

_ROUND = 1.1
_SQUARE = 1 / 1.1
_TOKEN = re.compile(
    r"\\(?P<escaped>[()\[\]\\]?)"
    r"|(?P<bracket>[()\[\]])"
    r"|:\s*+(?P<weight>[+-]?+(?:\d++(?:\.\d*+)?+|\.\d++))\s*+\)"
    r"|[^\\()\[\]:]++|:"
)
_BREAK_WORD = re.compile(r"\bBREAK\b")


def parse_attention(text: str, name: str = "prompt") -> tuple[Segment, ...]:
    """Split a prompt into segments of equal weight; at least one, the empty prompt gives `("", 1.0)`.

    Neighbours of equal weight are one segment. `BREAK` between words becomes the segment `BREAK`, and
    the white space around it is dropped. Takes time linear in the text's length.

    Args:
        text: any text.
        name: the field to name in an error.

    Raises:
        InvalidField: more than `MAX_DEPTH` brackets of a kind are open at once, or a weight exceeds
            `MAX_WEIGHT`.
    """
    run = _Run(name)
    for match in _TOKEN.finditer(text):
        if match["bracket"] is not None:
            run.bracket(match["bracket"])
        elif match["weight"] is not None and run.round:
            run.multiply(run.round.pop(), float(match["weight"]))
        elif match["escaped"] is not None:
            run.add(match["escaped"], 1.0)
        else:
            run.words(match[0])
    for start in run.round:
        run.multiply(start, _ROUND)
    for start in run.square:
        run.multiply(start, _SQUARE)
    if any(not abs(weight) <= MAX_WEIGHT for weight in run.weights):
        raise InvalidField(name, f"The {name} has a weight above {MAX_WEIGHT:,.0f}: lower it.")
    return _merge(run.texts, run.weights)


@dataclass(slots=True)
class _Run:
    """Segments so far, and for each open bracket the index of the first segment it holds.

    Weights are multiplied when their bracket closes, innermost first: the order fixes the last bit, and
    with it which neighbours are equal. The limit on depth bounds the work per segment.
    """

    name: str
    texts: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    round: list[int] = field(default_factory=list)
    square: list[int] = field(default_factory=list)

    def add(self, text: str, weight: float) -> None:
        self.texts.append(text)
        self.weights.append(weight)

    def words(self, text: str) -> None:
        """Add plain text, with the word BREAK as a segment of its own."""
        first, *rest = _BREAK_WORD.split(text)
        self.add(first.rstrip() if rest else first, 1.0)
        for index, part in enumerate(rest, 1):
            self.add(*BREAK)
            self.add(part.strip() if index < len(rest) else part.lstrip(), 1.0)

    def bracket(self, bracket: str) -> None:
        """Open or close a bracket; one that closes nothing is text."""
        if bracket in "([":
            opened = self.round if bracket == "(" else self.square
            if len(opened) == MAX_DEPTH:
                message = f"The {self.name} nests brackets deeper than {MAX_DEPTH}: remove or escape some."
                raise InvalidField(self.name, message)
            opened.append(len(self.texts))
        elif bracket == ")" and self.round:
            self.multiply(self.round.pop(), _ROUND)
        elif bracket == "]" and self.square:
            self.multiply(self.square.pop(), _SQUARE)
        else:
            self.add(bracket, 1.0)

    def multiply(self, start: int, factor: float) -> None:
        for index in range(start, len(self.weights)):
            self.weights[index] *= factor


def _merge(texts: list[str], weights: list[float]) -> tuple[Segment, ...]:
    merged: list[tuple[list[str], float]] = []
    for text, weight in zip(texts, weights, strict=True):
        if merged and merged[-1][1] == weight:
            merged[-1][0].append(text)
        else:
            merged.append(([text], weight))
    return tuple(("".join(parts), weight) for parts, weight in merged) or (("", 1.0),)
