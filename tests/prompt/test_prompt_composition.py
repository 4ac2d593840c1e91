import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.errors import InvalidField
from sdserver.prompt.composition import WeightedText, split_composition

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/prompt/composition.json").read_text("utf-8"))


@pytest.mark.parametrize("prompt", GOLDENS)
def test_golden(prompt: str) -> None:
    assert [[part.text, part.weight] for part in split_composition(prompt)] == GOLDENS[prompt]


@pytest.mark.parametrize(
    ("prompt", "text", "weight"),
    [
        ("a:1:2", "a:1", 2.0),
        ("a:2.", "a", 2.0),
        ("a:.5", "a", 0.5),
        ("a:1.2.3", "a:1.2.3", 1.0),
        ("a:1e3", "a:1e3", 1.0),
        ("a:.", "a:.", 1.0),
        ("\na : 2 \n", "\na", 2.0),
        (":2", "", 2.0),
    ],
)
def test_weight(prompt: str, text: str, weight: float) -> None:
    assert split_composition(prompt) == (WeightedText(text, weight),)


@pytest.mark.parametrize("number", ["1000001", "-1000001", "9" * 400])
def test_weight_is_limited(number: str) -> None:
    with pytest.raises(InvalidField, match="AND weight above 1,000,000"):
        split_composition(f"a AND b:{number}")


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("ab ,(é:")), st.integers(-99, 99).map(lambda n: n / 8)), min_size=1
    )
)
def test_printing_and_parsing_is_the_identity(parts: list[tuple[str, float]]) -> None:
    prompt = " AND".join(f" {text}:{weight}" for text, weight in parts)
    assert split_composition(prompt) == tuple(
        WeightedText(f" {text}".rstrip(), weight) for text, weight in parts
    )


@settings(deadline=None)
@given(st.text(st.sampled_from("AND :.5+-\n")) | st.text())
def test_any_text_splits(prompt: str) -> None:
    assert split_composition(prompt)
