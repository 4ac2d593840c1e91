"""From answers to figures, from figures to ratios."""

import math

import pytest

from bench.figures import Answered, Line, percentile, round_of, table, window


def answers(*ends: float) -> list[Answered]:
    return [Answered(0.0, end, 2.0) for end in ends]


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (51, 3), (75, 3), (99, 4), (100, 4), (0, 1)])
def test_percentile_is_a_value_that_was_seen(percent: float, expected: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == expected


def test_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


def test_window_leaves_out_warm_up_and_end() -> None:
    found = window(answers(9.0, 1.0, 4.0, 2.0, 3.0, 8.0), skipped=2, counted=2)
    assert (found.pictures, found.seconds) == (2, 2.0)
    assert (found.throughput, found.work_rate) == (1.0, 2.0)
    assert (found.p50, found.p99) == (3.0, 4.0)


@pytest.mark.parametrize(("skipped", "counted"), [(0, 2), (2, 2), (1, 3)])
def test_window_needs_enough(skipped: int, counted: int) -> None:
    with pytest.raises(ValueError, match="too few"):
        window(answers(1.0, 2.0, 3.0), skipped, counted)


def test_bad_answers_do_not_count() -> None:
    bad = Answered(0.0, 0.5, 2.0, "blank")
    found = round_of([*answers(1.0, 2.0), bad, bad], 2.0)
    assert (found.pictures, found.errors) == (2, {"blank": 2})
    assert (found.throughput, found.work_rate, found.p50) == (1.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("goal", "met"), [(">= 4", True), (">= 4.1", False), ("<= 4", True), ("<= 3.9", False), ("", None)]
)
def test_ratio_of_medians(goal: str, met: bool | None) -> None:
    line = Line("one", (1.0, 8.0, 100.0), (0.5, 2.0, 9.0), "s", goal)
    assert line.ratio == 4
    assert line.is_met is met
    assert line.as_json()["ours_median"] == 8


def test_table_is_aligned() -> None:
    text = table([Line("one", (1.0,), (2.0,), "s", "<= 1"), Line("longer", (3.0,), (0.0,), "s")])
    lengths = {len(line) for line in text.splitlines()}
    assert len(lengths) == 1
    assert "| one    | 1    | 2     | s    | 0.500 | <= 1 | yes |" in text
