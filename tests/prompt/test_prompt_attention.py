import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.errors import InvalidField
from sdserver.prompt.attention import BREAK, MAX_DEPTH, parse_attention

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/prompt/attention.json").read_text("utf-8"))


@pytest.mark.parametrize("text", GOLDENS)
def test_golden(text: str) -> None:
    assert [list(segment) for segment in parse_attention(text)] == GOLDENS[text]


@pytest.mark.parametrize("number", ["1.2.3", ".", "1..2", "+", "1.2,", "", "1e3"])
def test_what_is_no_number_is_text_in_a_plain_bracket(number: str) -> None:
    assert parse_attention(f"(a:{number})") == ((f"a:{number}", 1.1),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":1.3)", [(":1.3)", 1.0)]),
        ("\\a", [("a", 1.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", 1 / 1.1)]),
        ("(BREAK:1)", [("", 1.0), BREAK, ("", 1.0)]),
        ("a   BREAK\t\nBREAK,b", [("a", 1.0), BREAK, ("", 1.0), BREAK, (",b", 1.0)]),
    ],
)
def test_corner(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse_attention(text) == tuple(expected)


@pytest.mark.parametrize("bracket", "([")
def test_depth_is_limited_whether_or_not_brackets_close(bracket: str) -> None:
    assert len(parse_attention(bracket * MAX_DEPTH + "a")) == 1
    with pytest.raises(InvalidField, match="nests brackets deeper than 100") as caught:
        parse_attention(bracket * (MAX_DEPTH + 1) + "a", "negative_prompt")
    assert caught.value.field == "negative_prompt"


@pytest.mark.parametrize("text", ["(a:1000001)", "(a:-1000001)", "((a:9999):9999)", f"(a:{'9' * 400})"])
def test_weight_is_limited(text: str) -> None:
    with pytest.raises(InvalidField, match="weight above 1,000,000") as caught:
        parse_attention(text)
    assert caught.value.field == "prompt"


def test_infinite_times_zero_is_refused() -> None:
    with pytest.raises(InvalidField):
        parse_attention(f"((a:{'9' * 400}):0)")


HOSTILE = st.text(st.sampled_from("()[]:\\|.,0123 \nABREKab")) | st.text()


@settings(deadline=None)
@given(HOSTILE)
def test_any_text_parses_to_pieces_of_itself(text: str) -> None:
    try:
        segments = parse_attention(text)
    except InvalidField:
        return
    joined = iter(text)
    assert all(character in joined for segment, _ in segments for character in segment), "not a subsequence"
    assert segments
    assert all(a[1] != b[1] for a, b in pairwise(segments))


WORDS = st.text(min_size=1).filter(lambda text: "BREAK" not in text)
WEIGHTS = st.floats(0.01, 100).map(lambda weight: round(weight, 3))


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WEIGHTS), min_size=1, unique_by=lambda segment: segment[1]))
def test_printing_and_parsing_is_the_identity(segments: list[tuple[str, float]]) -> None:
    printed = "".join(f"({_escape(word)}:{weight})" for word, weight in segments)
    assert parse_attention(printed) == tuple(segments)


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "()[]\\" else c for c in text)
