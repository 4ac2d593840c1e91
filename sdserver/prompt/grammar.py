"""The grammar of prompt editing: a text as a tree of fixed pieces, switches and alternations.

The language is AUTOMATIC1111's. A construct holds balanced constructs and text, no stray bracket or
colon, so matching each closing bracket with the last open one decides everything, in one pass and
without recursion; brackets that form no construct are text. A `|` outside an alternation, or a backslash
before a line end or the text's end, spoils the whole text: then all of it is literal.

AUTOMATIC1111's own grammar is ambiguous where stray brackets or colons stand beside a construct, as in
`[a:b:3]: c`; what it does there varies with its parser library and the process's hash seed. Here the
construct always counts.
"""

import re
from dataclasses import dataclass, field
from typing import TypeAlias

_TOKEN = re.compile(r"(?:[^\\\[\]():|]++|\\.)++|[\[\]():|\\]")
_NUMBER = re.compile(
    r"\s*+([+-]?+(?:[0-9]++[eE][+-]?+[0-9]++|(?:[0-9]++\.[0-9]*+|\.[0-9]++)(?:[eE][+-]?+[0-9]++)?+|[0-9]++))\s*+"
)
_CLOSES = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Switch:
    """`[before:after:when]`. `when` is the number as written."""

    before: "Node"
    after: "Node"
    when: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Alternation:
    """`[first|second|...]`."""

    options: "tuple[Node, ...]"


# Trees may be very deep: handle them with a stack, never by recursion (so no repr, comparison or pickling).
Node: TypeAlias = str | Switch | Alternation | list["Node"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EditedText:
    """A parsed text. `switches` lists those anywhere in the tree; `alternates` says if it alternates."""

    root: Node
    switches: tuple[Switch, ...]
    alternates: bool


def parse_editing(text: str) -> EditedText:
    """Parse a text, in time linear in its length. Every text has a parse: what is no construct is text."""
    try:
        return _Parser().parse(text)
    except _GrammarError:
        return EditedText(text, (), alternates=False)


class _GrammarError(Exception):
    """The text does not follow the grammar and is used as it is."""


@dataclass(slots=True)
class _Frame:
    """An open bracket and what it holds so far, split at its colons and bars; `stray` spoils it."""

    opening: str
    parts: list[list[Node]] = field(default_factory=lambda: [[]])
    colons: bool = False
    bars: bool = False
    stray: bool = False

    def as_text(self, closing: str = "") -> list[Node]:
        """The frame with its brackets and colons as text."""
        if self.bars:
            raise _GrammarError
        nodes: list[Node] = [self.opening, *self.parts[0]]
        for part in self.parts[1:]:
            nodes += [":", *part]
        return [*nodes, closing]


class _Parser:
    def __init__(self) -> None:
        self.frames = [_Frame("")]
        self.switches: list[Switch] = []
        self.alternates = False

    def parse(self, text: str) -> EditedText:
        for piece in _TOKEN.findall(text):
            frame = self.frames[-1]
            if piece in ("(", "["):
                self.frames.append(_Frame(piece))
            elif piece in _CLOSES:
                self.close(piece)
            elif piece in (":", "|"):
                frame.colons |= piece == ":"
                frame.bars |= piece == "|"
                frame.parts.append([])
            elif piece == "\\":
                raise _GrammarError
            else:
                frame.parts[-1].append(piece)
        self.dissolve()
        return EditedText(self.frames[0].as_text(), tuple(self.switches), self.alternates)

    def close(self, closing: str) -> None:
        if self.frames[-1].opening != _CLOSES[closing]:
            self.dissolve()
            self.frames[0].parts[-1].append(closing)
            return
        frame = self.frames.pop()
        outer = self.frames[-1]
        node = None if frame.stray else self.construct(frame, closing)
        outer.parts[-1].append(frame.as_text(closing) if node is None else node)
        outer.stray = outer.stray or node is None

    def construct(self, frame: _Frame, closing: str) -> Node | None:
        """The construct that the closed frame forms, or None."""
        if len(frame.parts) == 1 or (closing == ")" and len(frame.parts) == 2):
            return frame.as_text(closing)
        if closing == "]" and not frame.colons:
            self.alternates = True
            return Alternation(tuple(frame.parts))
        if closing == "]" and not frame.bars and len(frame.parts) in (2, 3):
            *texts, last = frame.parts
            number = _NUMBER.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
            if number is not None:
                before: Node = texts[0] if len(texts) == 2 else ""
                self.switches.append(Switch(before, texts[-1], number[1]))
                return self.switches[-1]
        return None

    def dissolve(self) -> None:
        """Make all open brackets text: whatever follows, they can no longer be part of a construct."""
        root, *opened = self.frames
        for frame in opened:
            root.parts[-1] += frame.as_text()
        self.frames = [root]
