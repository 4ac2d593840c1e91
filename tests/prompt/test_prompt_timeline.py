import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.prompt.timeline import Span, at, timeline

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens/prompt/schedules.json").read_text("utf-8"))


@pytest.mark.parametrize(("text", "steps", "hires_steps", "old", "expected"), GOLDENS)
def test_golden(
    text: str, steps: int, hires_steps: int | None, old: bool, expected: list[list[object]]
) -> None:
    spans = timeline(text, steps, hires_steps, old=old)
    assert [[span.end_step, span.text] for span in spans] == expected


def test_old_scheduling_gives_both_passes_the_same_timeline() -> None:
    text = "[a:b:0.5] [c:d:12] [e|f]"
    assert timeline(text, 20, 8, old=True) == timeline(text, 20, old=True)


@pytest.mark.parametrize(
    ("text", "calls"), [("[a:b:3]", "aaaabbbbbb"), ("[a|b]", "aababababa"), ("x", "xxxxxxxxxx")]
)
def test_first_span_rules_one_call_longer(text: str, calls: str) -> None:
    spans = timeline(text, 10)
    assert "".join(at(spans, step) for step in range(10)) == calls


def test_past_the_end_the_first_span_rules_again() -> None:
    assert at((Span(5, "a"), Span(10, "b")), 10) == "b"
    assert at((Span(5, "a"), Span(10, "b")), 11) == "a"


@pytest.mark.parametrize("number", ["1e999", "1.0e999", "9" * 5000])
def test_a_huge_number_never_switches(number: str) -> None:
    assert timeline(f"[a:b:{number}]", 10) == (Span(10, "a"),)
    assert timeline(f"[a:b:-{number}]", 10) == (Span(10, "b"),)


@pytest.mark.parametrize(
    "text", ["a | b [c:d:3]", "[c:d:3] \\", "[c:d:3]\\\nb", "(a|b) [c:d:3]", "[a|b:3] [c:d:3]"]
)
def test_text_outside_the_grammar_is_used_as_it_is(text: str) -> None:
    assert timeline(text, 10) == (Span(10, text),)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("[[a:b:3]", "[b"),
        ("[x:(p:q:r):[a:b:3]:5]", "[x:(p:q:r):b:5]"),
        ("(x] [a:b:3]", "(x] b"),
        ("[a:b:3]: y", "b: y"),
        ("[a:b:c:3] [a:b:٣] [a:b:3]", "[a:b:c:3] [a:b:٣] b"),
        ("[a\\:b:c\\|d:3]", "c\\|d"),
    ],
)
def test_brackets_that_form_nothing_are_text(text: str, last: str) -> None:
    assert timeline(text, 10)[-1] == Span(10, last)


def test_deep_nesting_is_no_recursion() -> None:
    depth = 30_000
    assert timeline("[" * depth + "a" + ":b:3]" * depth, 10) == (
        Span(3, "a"),
        Span(10, "b"),
    )
    for brackets in ("[" * depth, "]" * depth, "(" * depth + ")" * depth, "[(" * depth + "])" * depth):
        assert timeline(brackets, 10) == (Span(10, brackets),)


Show = Callable[[int, int], str]
"""What a piece shows at a step, of so many steps."""


def _plain(text: str) -> tuple[str, Show]:
    return text, lambda _step, _steps: text


def _sequence(pieces: list[tuple[str, Show]]) -> tuple[str, Show]:
    return "".join(p for p, _ in pieces), lambda step, n: "".join(show(step, n) for _, show in pieces)


def _bracketed(piece: tuple[str, Show]) -> tuple[str, Show]:
    text, show = piece
    return f"([{text}]:1.2)", lambda step, n: f"([{show(step, n)}]:1.2)"


def _switch(before: tuple[str, Show], after: tuple[str, Show], when: int, share: bool) -> tuple[str, Show]:
    def show(step: int, steps: int) -> str:
        end = when * steps // 4 if share else when
        return (before if step <= end else after)[1](step, steps)

    return f"[{before[0]}:{after[0]}:{when / 4 if share else when}]", show


def _alternation(options: list[tuple[str, Show]]) -> tuple[str, Show]:
    return "[" + "|".join(p for p, _ in options) + "]", lambda step, n: options[(step - 1) % len(options)][1](
        step, n
    )


PIECES = st.recursive(
    st.text(st.sampled_from("ab ,\né3.")).map(_plain) | st.sampled_from(["\\[", "\\|", "\\\\"]).map(_plain),
    lambda inner: (
        st.lists(inner, max_size=3).map(_sequence)
        | inner.map(_bracketed)
        | st.builds(_switch, inner, inner, st.integers(0, 9), st.booleans())
        | st.lists(inner, min_size=2, max_size=4).map(_alternation)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(PIECES, st.integers(1, 9))
def test_every_step_shows_what_the_constructs_say(piece: tuple[str, Show], steps: int) -> None:
    text, show = piece
    spans = timeline(text, steps)
    assert [at(spans, step) for step in range(1, steps + 1)] == [
        show(step, steps) for step in range(1, steps + 1)
    ]


@settings(deadline=None)
@given(
    st.text(st.sampled_from("[]()|:\\ab 3.\n-e")) | st.text(),
    st.integers(1, 30),
    st.none() | st.integers(1, 9),
    st.booleans(),
)
def test_any_text_has_a_timeline(text: str, steps: int, hires_steps: int | None, old: bool) -> None:
    spans = timeline(text, steps, hires_steps, old=old)
    ends = [span.end_step for span in spans]
    assert ends == sorted(set(ends))
    assert ends[0] >= 1
    assert ends[-1] == (steps if hires_steps is None or old else hires_steps)
    assert all(len(span.text) <= len(text) for span in spans)
