"""Lists of values for axes, against AUTOMATIC1111's rules written out with NumPy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from sdserver.api.scripts.ranges import MAX_VALUES, join_list, numbers, split_list, whole_numbers
from sdserver.errors import InvalidField

small = st.integers(-200, 200)
spaces = st.sampled_from(["", " ", "  "])
decimals = st.integers(-9999, 9999).map(lambda value: value / 100)


@given(small, small, st.integers(-50, 50).filter(bool), spaces)
def test_whole_steps(start: int, end: int, step: int, space: str) -> None:
    text = f"{start}{space}-{space}{end}{space}({step:+d}{space})"
    assert whole_numbers([text]) == list(range(start, end + 1, step))


@given(small, small)
def test_a_whole_range_without_a_step_counts_up(start: int, end: int) -> None:
    assert whole_numbers([f"{start}-{end}"]) == list(range(start, end + 1))


@given(small, small, st.integers(0, 60), spaces)
def test_counts(start: int, end: int, count: int, space: str) -> None:
    text = f"{start}{space}-{space}{end}{space}[{count}{space}]"
    spread = np.linspace(start, end, count).tolist()
    assert whole_numbers([text]) == [int(value) for value in spread]
    assert numbers([text]) == spread


@given(decimals, decimals, st.integers(1, 300).map(lambda value: value / 4), st.sampled_from([1, -1]))
def test_steps_of_numbers(start: float, end: float, size: float, sign: int) -> None:
    step = size * sign
    expected = np.arange(start, end + step, step).tolist()
    text = f"{start}-{end} ({step:+})"
    if len(expected) <= MAX_VALUES:
        assert numbers([text]) == expected
    else:
        with pytest.raises(InvalidField):
            numbers([text])


@given(st.lists(st.one_of(small, decimals)))
def test_single_numbers(values: list[float]) -> None:
    assert numbers([str(value) for value in values]) == values
    assert whole_numbers([str(int(value)) for value in values]) == [int(value) for value in values]


@given(st.lists(st.text("ab,\" '-1()", max_size=8).map(str.strip).filter(bool), min_size=1, max_size=8))
def test_lists_come_back(items: list[str]) -> None:
    assert split_list(join_list(items)) == items


def test_lists() -> None:
    assert split_list('a cat, "red, big" ,,b') == ["a cat", "red, big", "", "b"]
    assert split_list("") == []
    assert whole_numbers(["1", "", " "]) == [1]
    assert numbers(["1e-3", "-.5"]) == [0.001, -0.5]


@given(st.text(max_size=40))
def test_any_text_is_numbers_or_refused(text: str) -> None:
    for read in (whole_numbers, numbers):
        try:
            found = read(split_list(text))
        except InvalidField:
            continue
        assert len(found) <= MAX_VALUES
        assert all(math.isfinite(value) for value in found)


@pytest.mark.parametrize(
    "text",
    [
        "1-1000000000",
        "1-5 [100000]",
        "0-1 (+0)",
        "9" * 30,
        "1-" + "9" * 30,
        "0-99999999999999999999 (+1)",
        ",".join(["1-500"] * 3),
        "1,x",
        "- 1 -",
    ],
)
def test_what_is_refused_at_once(text: str) -> None:
    for read in (whole_numbers, numbers) if text != "9" * 30 else (whole_numbers,):
        with pytest.raises(InvalidField):
            read(split_list(text))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "1" * 400, "0-1 (+0.0000001)"])
def test_numbers_are_finite_and_few(text: str) -> None:
    with pytest.raises(InvalidField):
        numbers([text])


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("read", [whole_numbers, numbers])
@pytest.mark.parametrize("item", ["1-" + " " * 49_000 + "x", "1-2 " + "(" * 49_000, "1" * 49_000])
def test_long_items_are_refused_at_once(read: Callable[[list[str]], object], item: str) -> None:
    with pytest.raises(InvalidField):
        read([item])


def test_blanks_within_a_range_do_not_matter() -> None:
    assert whole_numbers(["1  -" + " " * 9_000 + "3 ( +1 )"]) == [1, 2, 3]
