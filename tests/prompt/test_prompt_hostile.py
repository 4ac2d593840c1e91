"""Texts made to be slow: eight times the length may not take anything like 64 times the time."""

import gc
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.errors import InvalidField
from sdserver.prompt.attention import parse_attention
from sdserver.prompt.chunks import CLIP, chunk_text
from sdserver.prompt.comments import strip_comments
from sdserver.prompt.composition import split_composition
from sdserver.prompt.networks import extract_networks
from sdserver.prompt.timeline import timeline

UNITS = [
    "[", "]", "(", ")", "[(", "(a:", "[a:", "[a", "[a|", "()", "(a)b", "[a:b:3]", "[a|b]", "|",
    ":", ": ", ":1", ":1 ", "1", "1.", " ", "\n", "\\", "\\(", "<", "<a:", "<a:>", "<a:b>", "#", "\n#", "#\n",
    "AND", " AND ", "BREAK", " BREAK ", ",", "a,", "a(b", "a[b)",
]  # fmt: skip


def edit(text: str) -> object:
    return timeline(text, 4)


def chunk(text: str) -> object:
    return chunk_text(text, "Original", lambda texts: [[ord(c) for c in t] for t in texts], CLIP, 20)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "parse",
    [parse_attention, edit, split_composition, extract_networks, strip_comments, chunk],
    ids=lambda f: f.__name__,
)
def test_time_grows_with_length_only(parse: Callable[[str], object], unit: str) -> None:
    small, large = (seconds(parse, unit, size) for size in (5_000, 40_000))
    assert large < max(32 * small, 0.1)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(unit=st.text("[]():|\\ 0-9a", min_size=1, max_size=12))
def test_any_text_of_four_times_the_length_takes_about_four_times_the_time(unit: str) -> None:
    """20,000 characters: docs/security.md has the figure. The bounds here are for busy machines."""
    for parse in (parse_attention, edit):
        quarter, whole = (measure(parse, (unit * size)[:size]) for size in (5_000, 20_000))
        if whole > max(10 * quarter, 0.1):  # once more: other processes slow a core down, too
            quarter, whole = (seconds_of(parse, (unit * size)[:size]) for size in (5_000, 20_000))
        assert whole <= max(10 * quarter, 0.1), unit


def seconds_of(parse: Callable[[str], object], text: str) -> float:
    return min(measure(parse, text) for _ in range(3))


def seconds(parse: Callable[[str], object], unit: str, size: int) -> float:
    """The least of two measurements, in CPU time, of a text framed so that it nearly parses."""
    text = "(a" + unit * (size // len(unit)) + "b:1.2"
    return min(measure(parse, text) for _ in range(2))


def measure(parse: Callable[[str], object], text: str) -> float:
    gc.disable()  # its time grows with all that other tests left behind
    start = time.thread_time()
    try:
        parse(text)
    except InvalidField as error:
        assert error.field == "prompt"  # noqa: PT017
    finally:
        duration = time.thread_time() - start
        gc.enable()
    return duration
