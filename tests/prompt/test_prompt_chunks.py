import json
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.bundle.tokenizer import clip_tokenizer
from sdserver.jobs.job import Emphasis
from sdserver.prompt.chunks import CLIP, LENGTH, OPEN_CLIP, Chunk, Vocabulary, chunk_text
from sdserver.prompt.networks import extract_networks

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/prompt/chunks.json").read_text("utf-8"))
START, END, COMMA, BACKTRACK = 49406, 49407, 267, 20


def clip_ids(texts: list[str]) -> Sequence[Sequence[int]]:
    ids: list[list[int]] = clip_tokenizer()(texts, add_special_tokens=False)["input_ids"]
    return ids


def letter_ids(texts: list[str]) -> Sequence[Sequence[int]]:
    """One token per character; white space has none, as with CLIP."""
    return [[COMMA if c == "," else ord(c) for c in text if not c.isspace()] for text in texts]


CLIP_CASES = [name for name, case in GOLDENS.items() if case["families"] != ["sd2v"]]


@pytest.mark.parametrize("name", CLIP_CASES)
def test_golden(name: str) -> None:
    text, _ = extract_networks(GOLDENS[name]["prompt"])
    chunks = chunk_text(text, "Original", clip_ids, CLIP, BACKTRACK)
    assert chunks == tuple(
        Chunk(
            (START, *tokens, *[END] * (76 - len(tokens))),
            (1.0, *multipliers, *[1.0] * (76 - len(multipliers))),
        )
        for tokens, multipliers in GOLDENS[name]["chunks"]
    )


def test_open_clips_tokenizer_may_read_the_text_differently() -> None:
    case = GOLDENS["html@sd2v"]
    (chunk,) = chunk_text(
        case["prompt"], "Original", lambda texts: clip_ids([unescape(t) for t in texts]), OPEN_CLIP, BACKTRACK
    )
    assert chunk.tokens[1:8] == tuple(case["chunks"][0][0])
    assert chunk.tokens[8:] == (END, *[0] * 68)


@pytest.mark.parametrize("name", CLIP_CASES)
def test_open_clip_pads_with_zero_after_the_first_end(name: str) -> None:
    clip = chunk_text(GOLDENS[name]["prompt"], "Original", clip_ids, CLIP, BACKTRACK)
    open_clip = chunk_text(GOLDENS[name]["prompt"], "Original", clip_ids, OPEN_CLIP, BACKTRACK)
    for expected, chunk in zip(clip, open_clip, strict=True):
        end = expected.tokens.index(END)
        assert chunk.tokens == (*expected.tokens[: end + 1], *[0] * (76 - end))
        assert chunk.multipliers == expected.multipliers


def test_an_end_token_in_the_text_stays_in_clip_and_ends_open_clips_text() -> None:
    def ids(texts: list[str]) -> list[list[int]]:
        return [[5, END, 6] for _ in texts]

    assert chunk_text("x", "Original", ids, CLIP, 20)[0].tokens[:5] == (START, 5, END, 6, END)
    assert chunk_text("x", "Original", ids, OPEN_CLIP, 20)[0].tokens[:5] == (START, 5, END, 0, 0)


@pytest.mark.parametrize(
    ("emphasis", "tokens", "multipliers"),
    [
        ("Original", "ab", [1.0, 1.5]),
        ("No norm", "ab", [1.0, 1.5]),
        ("Ignore", "ab", [1.0, 1.0]),
        ("None", "a(b:1.5)", [1.0] * 8),
    ],
)
def test_emphasis(emphasis: Emphasis, tokens: str, multipliers: list[float]) -> None:
    (chunk,) = chunk_text("a (b:1.5)", emphasis, letter_ids, CLIP, 20)
    assert chunk.tokens[1 : len(tokens) + 1] == tuple(map(ord, tokens))
    assert chunk.multipliers == (1.0, *multipliers, *[1.0] * (76 - len(multipliers)))


@pytest.mark.parametrize(("emphasis", "count"), [("Original", 2), ("No norm", 2), ("Ignore", 2), ("None", 1)])
def test_break_ends_a_chunk_unless_emphasis_is_none(emphasis: Emphasis, count: int) -> None:
    assert len(chunk_text("a BREAK b", emphasis, letter_ids, CLIP, 20)) == count


def lengths(text: str, backtrack: int) -> list[int]:
    return [c.tokens.index(END) - 1 for c in chunk_text(text, "Original", letter_ids, CLIP, backtrack)]


@pytest.mark.parametrize(
    ("text", "backtrack", "expected"),
    [
        ("a" * 55 + "," + "b" * 20, 20, [56, 20]),
        ("a" * 54 + "," + "b" * 21, 20, [75, 1]),
        ("a" * 54 + "," + "b" * 21, 21, [55, 21]),
        ("a" * 74 + "," + "b", 1, [75, 1]),
        ("a" * 74 + "," + "b", 0, [75, 1]),
        ("a" * 73 + "," + "bb", 1, [75, 1]),
        ("a" * 73 + "," + "bb", 2, [74, 2]),
        ("a" * 60 + "," + "b" * 14 + ",c", 20, [75, 2]),
        ("," + "b" * 75, 1000, [1, 75]),
        ("a" * 75 + "," + "b" * 75, 1000, [75, 75, 1]),
        ("a" * 70 + ",b BREAK " + "c" * 70, 20, [72, 70]),
        ("a BREAK", 20, [1]),
    ],
)
def test_where_chunks_end(text: str, backtrack: int, expected: list[int]) -> None:
    assert lengths(text, backtrack) == expected


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", ",", "bcd" * 9, "(e:1.2)", " BREAK ", "é" * 40])).map("".join),
    st.integers(0, 80),
    st.sampled_from([CLIP, OPEN_CLIP]),
)
def test_chunks_hold_all_tokens_in_order(text: str, backtrack: int, vocabulary: Vocabulary) -> None:
    chunks = chunk_text(text, "Original", letter_ids, vocabulary, backtrack)
    held: list[tuple[int, float]] = []
    for chunk in chunks:
        assert len(chunk.tokens) == len(chunk.multipliers) == LENGTH + 2
        assert chunk.tokens[0] == START
        assert chunk.tokens[-1] in (vocabulary.pad, END)
        end = chunk.tokens.index(END)
        assert set(chunk.tokens[end + 1 :]) <= {vocabulary.pad}
        assert set(chunk.multipliers[end:]) == {1.0}
        held += zip(chunk.tokens[1:end], chunk.multipliers[1:end], strict=True)
    plain = text.replace(" BREAK ", "").replace("(e:1.2)", "E")
    expected = [(ord("e"), 1.2) if c == "E" else (letter_ids([c])[0][0], 1.0) for c in plain]
    assert held == expected
