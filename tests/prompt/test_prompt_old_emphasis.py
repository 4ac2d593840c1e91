"""Brackets as tokens that scale what follows."""

from collections.abc import Sequence

import pytest

from sdserver.bundle.tokenizer import clip_bracket_factors, clip_tokenizer
from sdserver.errors import InvalidField
from sdserver.jobs.job import Emphasis
from sdserver.jobs.model import Embedding
from sdserver.prompt.chunks import CLIP, OPEN_CLIP, Chunk, Placed
from sdserver.prompt.lexicon import Lexicon, Names
from sdserver.prompt.old_emphasis import bracket_factors, old_chunk

FACTORS = {ord("("): 1.1, ord(")"): 1 / 1.1, ord("["): 1 / 1.1, ord("]"): 1.1}
NAME = Embedding("xy", "/xy.pt")


def letters(texts: list[str]) -> Sequence[Sequence[int]]:
    return [[ord(character) for character in text] for text in texts]


def read(text: str, emphasis: Emphasis = "Original", vectors: int = 3) -> Chunk:
    lexicon = Lexicon(Names([([ord("x"), ord("y")], NAME)]), lambda _: vectors)
    return old_chunk(text, emphasis, letters, CLIP, FACTORS, lexicon)


def said(chunk: Chunk) -> str:
    return "".join(chr(token) for token in chunk.tokens[1:-1] if token < 128)


def test_factors_multiply_and_cancel_out() -> None:
    words = {"((": 1, "()</w>": 2, "cat</w>": 3, "[</w>": 4, ")])": 5}
    assert bracket_factors(words) == pytest.approx({1: 1.21, 4: 1 / 1.1, 5: 1 / 1.1})


def test_brackets_scale_all_that_follows() -> None:
    chunk = read("a(b[c]d)e((f")
    assert said(chunk) == "abcdef"
    expected = [1, 1.1, 1.0, 1.1, 1.0, 1.21]
    assert chunk.multipliers[1:7] == pytest.approx(expected)
    assert chunk.multipliers[0] == chunk.multipliers[7] == chunk.multipliers[76] == 1.0, "but not padding"
    assert len(chunk.tokens) == len(chunk.multipliers) == 77


def test_a_colon_is_a_colon() -> None:
    assert said(read("(a:1.5)")) == "a:1.5"


def test_other_emphases() -> None:
    assert said(read("(a)", "None")) == "(a)"
    assert set(read("(a)", "None").multipliers) == {1.0}
    assert said(read("(a", "Ignore")) == "a"
    assert set(read("(a", "Ignore").multipliers) == {1.0}
    assert read("(a", "No norm").multipliers[1] == pytest.approx(1.1)


def test_there_is_one_chunk_and_the_rest_is_cut_off() -> None:
    chunk = read("a" * 74 + "(bcd")
    assert said(chunk) == "a" * 74 + "b"
    assert chunk.multipliers[75:] == (pytest.approx(1.1), 1.0)
    assert chunk.tokens[0] == CLIP.start
    assert chunk.tokens[-1] == CLIP.end


def test_embeddings() -> None:
    chunk = read("a(xyb")
    assert chunk.tokens[1:6] == (ord("a"), 0, 0, 0, ord("b"))
    assert chunk.multipliers[2:6] == pytest.approx([1.1] * 4)
    assert chunk.embeddings == (Placed(2, NAME),)
    assert read("a" * 80 + "xy").embeddings == (), "behind the end"
    assert read("a" * 74 + "xy").embeddings == (Placed(75, NAME),)


def test_padding_follows_the_vocabulary() -> None:
    chunk = old_chunk("ab", "Original", letters, OPEN_CLIP, {})
    assert chunk.tokens[3] == OPEN_CLIP.end
    assert set(chunk.tokens[4:]) == {OPEN_CLIP.pad}


def test_weights_have_a_limit() -> None:
    with pytest.raises(InvalidField, match="fewer brackets"):
        read("(" * 200 + "a")


def test_clips_own_brackets() -> None:
    factors = clip_bracket_factors()
    ids = clip_tokenizer()(["a ((cat)) [dog]"], add_special_tokens=False)["input_ids"][0]
    found = [round(factors[token], 6) for token in ids if token in factors]
    assert found == [1.21, round(1 / 1.21, 6), round(1 / 1.1, 6), 1.1]
