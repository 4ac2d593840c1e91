from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.errors import RequestError
from sdserver.jobs.model import Embedding
from sdserver.prompt.chunks import CLIP, OPEN_CLIP, Chunk, Placed, chunk_text
from sdserver.prompt.lexicon import Found, Lexicon, Names

COMMA = 267


def ids(texts: list[str]) -> list[list[int]]:
    return [[COMMA if c == "," else ord(c) for c in text if not c.isspace()] for text in texts]


def embedding(name: str) -> Embedding:
    return Embedding(name, f"/embeddings/{name}.pt")


def lexicon(**vectors: int | None) -> Lexicon:
    """Embeddings by name, each with its number of vectors; None for one that does not fit."""
    names = Names((ids([name])[0], embedding(name)) for name in vectors)
    return Lexicon(names, lambda one: vectors[one.name])


def chunks(text: str, known: Lexicon, backtrack: int = 20) -> tuple[Chunk, ...]:
    return chunk_text(text, "Original", ids, CLIP, backtrack, known)


def placed(chunk: Chunk) -> list[tuple[int, str]]:
    return [(place.position, place.embedding.name) for place in chunk.embeddings]


def length(chunk: Chunk) -> int:
    return chunk.tokens.index(CLIP.end) - 1


def test_a_name_becomes_its_vectors() -> None:
    (chunk,) = chunks("an (xyz:1.5), cat", lexicon(xyz=2))
    assert chunk.tokens[1:9] == (*map(ord, "an"), 0, 0, COMMA, *map(ord, "cat"))
    assert chunk.multipliers[1:6] == (1.0, 1.0, 1.5, 1.5, 1.0)
    assert chunk.embeddings == (Placed(3, embedding("xyz")),)


def test_names_are_found_inside_of_words_and_the_longest_wins() -> None:
    known = lexicon(ab=1, abcd=3, bc=2)
    (chunk,) = chunks("xabcdx abx bc abc", known)
    assert placed(chunk) == [(2, "abcd"), (6, "ab"), (8, "bc"), (10, "ab")]
    assert length(chunk) == 1 + 3 + 1 + 1 + 1 + 2 + 1 + 1


def test_a_longer_name_that_does_not_fit_the_checkpoint_gives_way() -> None:
    known = lexicon(ab=1, abcd=None, q=None)
    assert known.find(ids(["abcd"])[0], 0) == Found(embedding("ab"), 2, 1)
    (chunk,) = chunks("abcd q", known)
    assert (placed(chunk), chunk.tokens[2:5]) == ([(1, "ab")], tuple(map(ord, "cdq")))


def test_of_names_with_equal_tokens_the_first_is_meant() -> None:
    first, second = embedding("a b"), embedding("ab")
    known = Lexicon(Names([([97, 98], first), ([97, 98], second), ([], embedding(""))]), lambda _: 1)
    assert known.find([97, 98], 0) == Found(first, 2, 1)
    assert known.find([98], 0) is None


@pytest.mark.parametrize(
    ("before", "lengths", "places"),
    [
        ("a" * 72, [76 - 1, 1], [[(73, "xyz")], []]),
        ("a" * 73, [73, 4], [[], [(1, "xyz")]]),
        ("a" * 75, [75, 4], [[], [(1, "xyz")]]),
        # The comma does not hold the words back: only a full chunk is split at one.
        ("a" * 70 + ",bb", [73, 4], [[], [(1, "xyz")]]),
    ],
)
def test_an_embedding_is_not_split(
    before: str, lengths: Sequence[int], places: Sequence[Sequence[tuple[int, str]]]
) -> None:
    found = chunks(before + "xyzd", lexicon(xyz=3))
    assert [length(chunk) for chunk in found] == lengths
    assert [placed(chunk) for chunk in found] == places


def test_an_embedding_behind_a_comma_stays_when_the_words_move_on() -> None:
    """A1111's behaviour: its vectors are left in what is now padding, and zeros move on."""
    first, second = chunks("a" * 65 + ",bxyz" + "c" * 5 + "dd", lexicon(xyz=3))
    assert (length(first), placed(first)) == (66, [(68, "xyz")])
    assert (second.tokens[1:12], placed(second)) == ((98, 0, 0, 0, *[99] * 5, 100, 100), [])


def test_open_clip_pads_behind_an_embedding() -> None:
    (chunk,) = chunk_text("xyz a", "Original", ids, OPEN_CLIP, 20, lexicon(xyz=2))
    assert chunk.tokens == (49406, 0, 0, 97, 49407, *[0] * 72)


def test_an_embedding_longer_than_a_chunk_is_refused() -> None:
    assert len(chunks("xyz", lexicon(xyz=75))) == 1
    with pytest.raises(RequestError, match=r"xyz has 76 vectors"):
        chunks("a xyz", lexicon(xyz=76))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", ",", "b" * 20, "xyz", "xy", "(xyz:1.2)", " BREAK "])).map("".join),
    st.integers(1, 75),
)
def test_every_chunk_is_77_long_and_holds_its_embeddings(text: str, vectors: int) -> None:
    found = chunks(text, lexicon(xyz=vectors, xy=1), backtrack=0)
    for chunk in found:
        assert len(chunk.tokens) == len(chunk.multipliers) == 77
        for place in chunk.embeddings:
            count = vectors if place.embedding.name == "xyz" else 1
            assert set(chunk.tokens[place.position : place.position + count]) == {0}
            assert place.position + count <= 76
    assert sum(len(chunk.embeddings) for chunk in found) == text.count("xy")
