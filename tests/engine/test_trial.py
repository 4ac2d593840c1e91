"""Two sizes of batches are compared by neighbours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.engine.trial import COMPARISONS, FEW, GAIN, Trial


def tried(seconds, batches, *, small=8):
    """A trial of so many batches; `seconds` says what a row takes, by size and number of the batch."""
    trial = Trial(small, is_upward=True, ends_at=100)
    for number in range(batches):
        rows = trial.rows
        trial.ran(rows, seconds(rows, number))
    return trial


def test_both_sizes_take_turns():
    trial = Trial(8, is_upward=True, ends_at=100)
    sizes = []
    for _ in range(4):
        sizes.append(trial.rows)
        trial.ran(trial.rows, 1.0)
    assert sizes == [8, 16, 8, 16]


def test_the_large_size_is_asked_for_until_so_many_rows_wait():
    trial = Trial(8, is_upward=True, ends_at=100, last=(8, None))
    for _ in range(5):
        assert trial.rows == 16
        trial.ran(4, 1.0)
    assert trial.verdict() is None
    assert not trial.wants_time(4)


@pytest.mark.parametrize(("gain", "verdict"), [(1.3, True), (0.7, False)])
def test_few_comparisons_suffice_where_the_case_is_clear(gain, verdict):
    def seconds(rows, _):
        return 1.0 if rows == 8 else 1 / gain

    assert tried(seconds, FEW).verdict() is None
    assert tried(seconds, FEW + 1).verdict() is verdict


@pytest.mark.parametrize(("gain", "verdict"), [(1 + 2 * GAIN, True), (1 + GAIN / 2, False), (0.95, False)])
def test_where_it_is_not_the_least_times_of_more_decide(gain, verdict):
    def seconds(rows, _):
        return 1.0 if rows == 8 else 1 / gain

    assert tried(seconds, COMPARISONS).verdict() is None
    assert tried(seconds, COMPARISONS + 1).verdict() is verdict


@given(
    st.sets(st.integers(0, COMPARISONS // 2)),
    st.sets(st.integers(0, COMPARISONS // 2)),
    st.booleans(),
    st.floats(1.2, 10),
)
def test_disturbed_batches_decide_nothing_as_long_as_one_of_each_size_is_not(
    larger, smaller, is_larger_better, slower
):
    spoiled = {2 * place for place in larger} | {2 * place + 1 for place in smaller}
    spoiled -= {0, COMPARISONS}

    def seconds(rows, number):
        return (0.93 if (rows == 16) == is_larger_better else 1.0) * (slower if number in spoiled else 1.0)

    trial = Trial(8, is_upward=True, ends_at=100)
    for number in range(COMPARISONS + 1):
        trial.ran(trial.rows, seconds(trial.rows, number))
    assert trial.verdict() is is_larger_better


@given(st.integers(0, FEW), st.booleans(), st.floats(1.2, 10))
def test_one_disturbed_batch_ends_no_trial_the_wrong_way(disturbed, is_larger_better, slower):
    def seconds(rows, number):
        return (0.8 if (rows == 16) == is_larger_better else 1.0) * (slower if number == disturbed else 1.0)

    assert tried(seconds, FEW + 1).verdict() in (None, is_larger_better)


@given(st.integers(2, COMPARISONS - 1), st.floats(0.1, 10))
def test_what_changes_all_from_a_batch_on_decides_nothing(moment, slower):
    """Both sizes have a batch before, and one after."""

    def seconds(rows, number):
        return (0.93 if rows == 16 else 1.0) * (slower if number >= moment else 1.0)

    assert tried(seconds, COMPARISONS + 1).verdict() in (True, None)


def test_only_neighbours_whose_times_are_known_are_compared():
    trial = Trial(8, is_upward=True, ends_at=100)
    for size, seconds in ((16, 1.0), (4, 1.0), (8, 1.0), (8, 2.0), (16, None), (8, 1.0)):
        trial.ran(size, seconds)
    assert trial.gains == []
    trial.ran(16, 0.5)
    assert trial.gains == [2.0]


def test_times_are_wanted_of_the_large_batches_and_those_after_them():
    trial = Trial(8, is_upward=True, ends_at=100)
    assert trial.wants_time(16)
    assert not trial.wants_time(8)
    trial.ran(16, 1.0)
    assert trial.wants_time(8)
