"""How many rows are found to be worth running together, told of batches by a made-up device."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.engine.budget import MOST_DECODE_ROWS, LearntBudget, row_budget
from sdserver.engine.costs import MOST_PAUSE, RETRY, SHAPES, Costs, bucket
from sdserver.engine.trial import COMPARISONS, GAIN

KEY = ("predict", (4, 64, 64), "m")
DECODE = ("decode", "m", None, (4, 64, 64))
LEVEL = COMPARISONS + 4
"""Batches that suffice for a size to be told from its double."""


def seconds_of(fixed, row, knee=10**9):
    """A device that takes `fixed` a batch and `row` a row; beyond the knee a row takes half as long again."""
    return lambda rows: fixed + row * rows + 0.5 * row * max(0, rows - knee)


def run(costs, device, batches, *, waiting=10**6, most=256, key=KEY, noise=lambda: 1.0):
    """The sizes of so many batches, each as large as may be."""
    budget = LearntBudget(row_budget(most), costs)
    sizes = []
    for _ in range(batches):
        rows = min(waiting, budget(key))
        sizes.append(rows)
        costs.ran(key, rows, device(rows) * noise() if costs.wants_time(key, rows) else None)
    return sizes


def found(costs):
    """The size that is taken for worth it."""
    return costs.of(KEY).size


def best(device, most):
    """The smallest size from which twice as many rows gain too little."""
    rows = 2
    while 2 * rows <= most and (device(rows) / rows) / (device(2 * rows) / (2 * rows)) >= 1 + GAIN:
        rows *= 2
    return rows


def in_bursts(seed: int, seconds: float) -> Iterator[float]:
    """By what each batch takes longer. Another program comes and goes, each time for about so many seconds,
    and takes a third to a half of the machine; single batches are disturbed beside that. It is sent what each
    batch takes alone.
    """
    chance = random.Random(seed)
    factor, left, alone = 1.0, chance.expovariate(1 / seconds), 0.0
    while True:
        if left < 0:
            factor = chance.uniform(1.5, 2) if factor == 1 else 1.0
            left = chance.expovariate(1 / seconds)
        spike = chance.uniform(1.5, 3) if chance.random() < 0.05 else 1.0
        slower = factor * spike * (1 + abs(chance.gauss(0, 0.08)))
        left -= alone * slower
        alone = yield slower


def share_of_work(device, seconds, most, noise):
    """The work done in so long, by what had been done at the best size."""
    costs = Costs()
    budget, spent, alone, whole = LearntBudget(row_budget(most), costs), 0.0, 0.0, 0.0
    next(noise)
    rate = max(rows / device(rows) for rows in (2, 4, 8, 16, 32, 64, 128, 256) if rows <= most)
    while spent < seconds:
        rows = budget(KEY)
        slower = noise.send(device(rows))
        costs.ran(KEY, rows, device(rows) * slower)
        spent += device(rows) * slower
        alone += device(rows)
        whole += rows / rate
    return whole / alone


@given(st.floats(0, 1), st.floats(1e-3, 0.1), st.sampled_from([4, 16, 64]), st.sampled_from([16, 64, 256]))
def test_batches_grow_to_the_knee_and_no_further(fixed, row, knee, most):
    device, costs = seconds_of(fixed, row, knee), Costs()
    sizes = run(costs, device, 9 * LEVEL, most=most)
    assert found(costs) == best(device, most)
    assert max(sizes) <= min(most, 2 * found(costs))


def test_a_device_that_gains_nothing_is_given_one_picture_at_a_time():
    costs = Costs()
    sizes = run(costs, seconds_of(0.0, 1.0), 4 * MOST_PAUSE)
    assert set(sizes) == {2, 4}
    assert sizes[2 * LEVEL :].index(4) < 2 * RETRY, "it is looked again soon"
    assert sizes[-MOST_PAUSE:].count(4) <= COMPARISONS, "and then ever more seldom"


@given(st.integers(0, 10**6))
def test_noise_does_not_decide(seed):
    """Another program takes up to half of the time."""
    chance = random.Random(seed)
    sizes = run(Costs(), seconds_of(20, 2, 32), 768, noise=lambda: 1 + chance.random() ** 3)
    assert sorted(sizes)[len(sizes) // 2] in (16, 32, 64)


@pytest.mark.parametrize("seed", range(24))
def test_programs_that_come_and_go_do_not_keep_batches_small(seed):
    """The device is a small UNet on a processor: 32 rows cost a row a quarter of what two do."""
    share = share_of_work(seconds_of(0.0125, 0.002), 20.0, 32, in_bursts(seed, 1.0))
    assert share > 0.9


@pytest.mark.parametrize("seed", range(8))
def test_larger_batches_that_are_worse_are_found_out_beside_other_programs(seed):
    """Beyond 16 rows the processor's cache does not suffice."""

    def device(rows):
        return 0.0125 + 0.002 * rows + 0.0015 * max(0, rows - 16)

    assert share_of_work(device, 60.0, 256, in_bursts(seed, 1.0)) > 0.9


def test_what_slows_all_batches_from_a_moment_on_decides_nothing():
    for moment in range(5 * LEVEL):
        costs = Costs()
        run(costs, seconds_of(20, 2, 32), moment)
        run(costs, lambda rows: 3 * seconds_of(20, 2, 32)(rows), 5 * LEVEL)
        assert found(costs) == 32, moment


def test_a_size_that_was_disturbed_on_trial_is_tried_again_soon():
    costs, disturbed = Costs(), iter([1.0, 2.0, 2.0, 2.0])

    def device(rows):
        return seconds_of(20, 2, 32)(rows) * (next(disturbed, 1.0) if rows == 32 else 1.0)

    run(costs, device, 4 * LEVEL)
    assert next(disturbed, None) is None
    assert found(costs) == 16
    run(costs, device, RETRY + 2 * LEVEL)
    assert found(costs) == 32


def test_a_device_that_changed_is_given_less_again():
    costs = Costs()
    run(costs, seconds_of(20, 1), RETRY * 16, most=64)
    assert found(costs) == 64
    run(costs, seconds_of(0, 1), 2 * MOST_PAUSE, most=64)
    assert found(costs) == 2


def test_a_device_that_changed_is_found_out_where_no_more_rows_wait():
    """Twice the size is on trial all the time, as no batch of that size ever comes together."""
    costs = Costs()
    run(costs, seconds_of(20, 1), RETRY * 16, waiting=32)
    assert found(costs) == 32
    run(costs, seconds_of(0, 1), 2 * MOST_PAUSE, waiting=32)
    assert found(costs) == 2


def test_a_size_is_not_taken_for_worth_it_before_so_many_rows_wait():
    costs = Costs()
    assert set(run(costs, seconds_of(20, 1), 100, waiting=6)) == {2, 4, 6}
    assert found(costs) == 8
    assert 16 in run(costs, seconds_of(20, 1), LEVEL)


def test_rows_that_were_not_timed_are_told_apart():
    costs = Costs(every=8)
    run(costs, seconds_of(20, 1), 200, waiting=32)
    while costs.of(KEY).trial is None or not costs.of(KEY).trial.is_upward:
        run(costs, seconds_of(20, 1), 1, waiting=32)
    timed = [costs.wants_time(KEY, 32) for _ in range(16) if not costs.ran(KEY, 32, None)]
    assert timed.count(True) == 2, "nothing hangs on the time of a size that others cannot be compared with"


def test_pictures_are_decoded_so_many_at_a_time_as_take_two_steps():
    costs = Costs()
    budget = LearntBudget(row_budget(64), costs)
    assert budget(DECODE) == 2
    costs.ran(DECODE, 1, 0.3)
    assert budget(DECODE) == 2, "how long a step is was not known"
    costs.ran(KEY, 16, 0.6)
    assert budget(DECODE) == 4
    costs.ran(KEY, 64, 9.0)
    assert budget(DECODE) == MOST_DECODE_ROWS
    large = ("decode", "m", None, (4, 128, 128))
    costs.ran(large, 1, 0.3)
    assert budget(large) == 2, "memory, too, has its limit"


@given(st.integers(1, 10**4))
def test_a_bucket_is_the_nearest_power_of_two(rows):
    found = bucket(rows)
    assert found & (found - 1) == 0
    assert 2**-0.5 - 1e-9 <= rows / found <= 2**0.5 + 1e-9


def test_shapes_are_forgotten():
    costs = Costs()
    for side in range(SHAPES + 1):
        costs.ran(("predict", (4, side, side), "m"), 1, 1.0)
    assert costs.alone(("predict", (4, SHAPES, SHAPES), "m")) == 1.0
    assert costs.alone(("predict", (4, 0, 0), "m")) is None


@pytest.mark.parametrize("rest", [(), ((), False), (("lora",), True, 77)])
def test_a_shape_is_the_same_whatever_else_a_key_says(rest):
    costs = Costs()
    costs.ran(("predict", (4, 8, 8), "m", *rest), 1, 0.5)
    assert costs.alone(("predict", (9, 8, 8), "m")) == 0.5
