"""Token ids without the model libraries are those with them."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.bundle.clip_tokens import ClipTokens
from sdserver.bundle.tokenizer import clip_bracket_factors, tokenize

CORPUS = (
    "",
    " ",
    "a red circle on a white background",
    "masterpiece, best quality, (cat:1.3), [dog], <lora:x:1>, {a|b}",
    "Don't stop; it's 12345 o'clock",
    "\u201cquoted\u201d \u00a0 na\u00efve caf\u00e9 \u00c3\u00a9",
    "\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \U0001f431\U0001f3fd",
    "&amp;lt; &quot;",
    "<|startoftext|>cat<|endoftext|>dog<|END",
    "\ud800 \x00 \x7f\t\r\n",
    "a</w>b </w>",
    "BREAK AND",
    "!" * 300,
    "o\u0301" * 40,
)


@cache
def tokens() -> ClipTokens:
    return ClipTokens()


@pytest.mark.parametrize("kind", ["clip", "open_clip"])
def test_ids_are_the_bundles(kind: str) -> None:
    assert tokens().ids(CORPUS, unescapes=kind == "open_clip") == tokenize(CORPUS, kind)
    assert tokens().ids([]) == tokenize([], kind) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text() | st.text("aAb'12,()<|>/w&;# \u00e9\u3042", max_size=40), max_size=4),
    st.sampled_from(["clip", "open_clip"]),
)
def test_ids_of_any_text_are_the_bundles(texts: list[str], kind: str) -> None:
    assert tokens().ids(texts, unescapes=kind == "open_clip") == tokenize(texts, kind)


def test_factors_of_brackets_are_the_bundles() -> None:
    assert tokens().factors == clip_bracket_factors()
    assert len(tokens().factors) > 10
