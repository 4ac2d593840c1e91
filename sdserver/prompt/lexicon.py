"""The names of textual inversions, found in a text by their token ids."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sdserver.jobs.model import Embedding

VectorsOf = Callable[[Embedding], int | None]
"""How many vectors an embedding has; None if it does not fit the checkpoint and is plain text."""


@dataclass(frozen=True, slots=True)
class Found:
    """A name in a text.

    Attributes:
        length: of the name, in tokens.
        vectors: how many vectors stand in its place.
    """

    embedding: Embedding
    length: int
    vectors: int


@dataclass(slots=True)
class _Node:
    """What the token ids of names lead to: longer names, and the embeddings that are named so far."""

    further: dict[int, "_Node"] = field(default_factory=dict)
    embeddings: list[Embedding] = field(default_factory=list)


class Names:
    """A set of names, as a tree over their token ids.

    Args:
        names: token ids and embedding; of two with equal ids the first is meant. Names without ids are
            never found.
    """

    def __init__(self, names: Iterable[tuple[Sequence[int], Embedding]]) -> None:
        self._root = _Node()
        for tokens, embedding in names:
            node = self._root
            for token in tokens:
                node = node.further.setdefault(token, _Node())
            node.embeddings.append(embedding)

    def starting(self, tokens: Sequence[int], position: int) -> list[tuple[int, Embedding]]:
        """Lengths and embeddings of all names that begin at a position, longest first."""
        found: list[tuple[int, Embedding]] = []
        node, end = self._root, position
        while end < len(tokens) and (further := node.further.get(tokens[end])) is not None:
            node, end = further, end + 1
            found += ((end - position, embedding) for embedding in reversed(node.embeddings))
        return found[::-1]


class Lexicon:
    """The textual inversions that a checkpoint can use.

    Args:
        vectors_of: asked only for those whose names are met.
    """

    def __init__(self, names: Names, vectors_of: VectorsOf) -> None:
        self._names = names
        self._vectors_of = vectors_of

    def find(self, tokens: Sequence[int], position: int) -> Found | None:
        """The longest name that begins at a position and whose embedding fits the checkpoint."""
        for length, embedding in self._names.starting(tokens, position):
            vectors = self._vectors_of(embedding)
            if vectors is not None:
                return Found(embedding, length, vectors)
        return None


NOTHING_LEARNED = Lexicon(Names(()), lambda _: None)
"""No textual inversions."""
