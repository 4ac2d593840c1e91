"""The token counter: what AUTOMATIC1111's shows beside the prompt, and what the engine chunks."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.bundle.clip_tokens import ClipTokens
from sdserver.errors import InvalidField
from sdserver.jobs.model import Embedding
from sdserver.prompt.chunks import CLIP, LENGTH, chunk_text
from sdserver.prompt.count import MAX_CHARACTERS, Counter
from sdserver.prompt.lexicon import Lexicon, Names

TOKENS = ClipTokens()
COUNTER = Counter(TOKENS.ids)


def count(prompt: str, steps: int = 20, *, is_negative: bool = False, counter: Counter = COUNTER) -> str:
    counted = counter.count(prompt, steps, is_negative=is_negative)
    return f"{counted.tokens}/{counted.limit}"


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("", "0/75"),
        ("a cat", "2/75"),
        ("(a cat:1.3)", "2/75"),
        ("a cat <lora:one:0.5>", "2/75"),
        ("cat " * 75, "75/75"),
        ("cat " * 76, "76/150"),
        ("cat BREAK dog", "76/150"),
        ("cat BREAK", "75/75"),
        ("a [cat:black dog with ears:0.5]", "5/75"),
        ("a [cat|black dog]", "3/75"),
        ("a [cat:black dog with ears:50]", "2/75"),
        ("a cat AND a black dog", "3/75"),
        ("cat " * 70 + ", " + "dog " * 10, "85/150"),
    ],
)
def test_it_shows_what_automatic1111_shows(prompt: str, shown: str) -> None:
    assert count(prompt) == shown


def test_and_is_a_word_of_a_negative_prompt() -> None:
    assert count("a cat AND a dog", is_negative=True) == "5/75"


def test_the_options_count() -> None:
    assert count("(cat)", counter=Counter(TOKENS.ids, emphasis="None")) == "3/75"
    old = Counter(TOKENS.ids, factors=TOKENS.factors)
    assert count("((cat)) BREAK dog", counter=old) == "3/75"
    assert count("cat " * 80, counter=old) == "80/150"
    text = "cat " * 70 + ", " + "dog " * 10
    assert count(text, counter=Counter(TOKENS.ids, comma_padding_backtrack=0)) == "81/150"


def test_an_embedding_counts_its_vectors() -> None:
    names = Names([(TOKENS.ids(["bad hands"])[0], Embedding("bad hands", "x.pt"))])
    counter = Counter(TOKENS.ids, lexicon=Lexicon(names, lambda _: 8))
    assert count("bad hands, cat", counter=counter) == "10/75"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["cat", ",", "BREAK", "(dog", ":1.2)", "naïve", "[", "]"]), max_size=300))
def test_the_limit_is_what_the_engines_chunks_hold(words: list[str]) -> None:
    text = " ".join(words)
    chunks = chunk_text(text, "Original", TOKENS.ids, CLIP, 20)
    counted = COUNTER.count(text, 1, is_negative=True)
    if "[" not in text:
        assert counted.limit == LENGTH * len(chunks)
    assert 0 <= counted.limit - counted.tokens <= LENGTH
    assert counted.limit == math.ceil(max(1, counted.tokens) / LENGTH) * LENGTH


def test_what_shows_too_much_is_refused() -> None:
    prompt = "[a|" * 12 + "x" * (MAX_CHARACTERS // 8) + "]" * 12 + "".join(f"[a:b:{k}]" for k in range(20))
    with pytest.raises(InvalidField, match="over its steps"):
        COUNTER.count(prompt, 20)
