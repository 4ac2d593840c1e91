"""How many rows are found to be worth running together, told of batches by a made-up device."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdserver.engine.budget import MOST_DECODE_ROWS, LearntBudget, row_budget
from sdserver.engine.costs import EARLY, GAIN, RETRY, SHAPES, WINDOW, Costs, bucket

KEY = ("predict", (4, 64, 64), "m")
DECODE = ("decode", "m", None, (4, 64, 64))


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


def best(device, most):
    """The smallest size from which twice as many rows gain too little."""
    rows = 2
    while 2 * rows <= most and device(2 * rows) / (2 * rows) * (1 + GAIN) <= device(rows) / rows:
        rows *= 2
    return rows


@given(st.floats(0, 1), st.floats(1e-3, 0.1), st.sampled_from([4, 16, 64]), st.sampled_from([16, 64, 256]))
def test_batches_grow_to_the_knee_and_no_further(fixed, row, knee, most):
    device = seconds_of(fixed, row, knee)
    sizes = run(Costs(), device, WINDOW * 10, most=most)
    assert sizes[-1] == best(device, most)
    assert max(sizes) <= min(most, 2 * sizes[-1])


def test_a_device_that_gains_nothing_is_given_one_picture_at_a_time():
    assert set(run(Costs(), seconds_of(0.0, 1.0), 60)[2 * WINDOW :]) == {2}


@given(st.integers(0, 10**6))
def test_noise_does_not_decide(seed):
    """Another program takes up to half of the time."""
    chance = random.Random(seed)
    sizes = run(Costs(), seconds_of(20, 2, 32), 3 * RETRY, noise=lambda: 1 + chance.random() ** 3)
    assert sorted(sizes)[len(sizes) // 2] in (16, 32, 64)


def test_a_wrong_size_is_found_out_later():
    costs, slow = Costs(), 3.0
    assert run(costs, seconds_of(20, 2, 32), EARLY * 4)[-1] == 16
    assert set(run(costs, lambda rows: slow * seconds_of(20, 2, 32)(rows), WINDOW)) == {32}
    assert run(costs, seconds_of(20, 2, 32), WINDOW * 2)[-1] == 16, "32 rows were timed while all was slow"
    assert run(costs, seconds_of(20, 2, 32), 2 * RETRY)[-1] == 32


def test_a_device_that_changed_is_given_less_again():
    costs = Costs()
    assert run(costs, seconds_of(20, 1), RETRY, most=64)[-1] == 64
    assert run(costs, seconds_of(0, 1), 40 * RETRY, most=64)[-1] == 2


def test_a_size_is_not_taken_for_worth_it_before_so_many_rows_wait():
    costs = Costs()
    assert set(run(costs, seconds_of(20, 1), 100, waiting=6)) == {2, 4, 6}
    assert run(costs, seconds_of(20, 1), 1) == [16]


def test_rows_that_were_not_timed_are_told_apart():
    costs = Costs(every=8)
    rows = run(costs, seconds_of(20, 1), 200)[-1]
    timed = [costs.wants_time(KEY, rows) for _ in range(16) if not costs.ran(KEY, rows, None)]
    assert timed.count(True) == 2


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
