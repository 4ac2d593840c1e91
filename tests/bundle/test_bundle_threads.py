"""The number of threads: which are tried, which is taken, and that it is set."""

import pytest
import torch

from sdserver.bundle.threads import SECONDS, candidates, choose, chosen, cores, stand_ins


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_powers_of_two_and_all_are_tried(most: int, expected: list[int]) -> None:
    assert candidates(most) == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({1: [25.0, 127.0], 2: [25.0, 83.0]}, 2),
        ({1: [25.0, 127.0], 2: [60.0, 120.0]}, 1),
        ({1: [10.0, 100.0], 2: [9.8, 98.0]}, 1),
        ({1: [8.0, 80.0], 2: [5.0, 50.0], 4: [4.0, 30.0], 8: [9.0, 40.0]}, 4),
        ({1: [8.0], 2: [9.0], 4: [3.0]}, 4),
    ],
    ids=["large batches gain", "they spin", "hardly a gain", "too many hurt", "over a bump"],
)
def test_the_rule(times: dict[int, list[float]], expected: int) -> None:
    assert chosen(times) == expected


class Machine:
    """Two pieces of work whose time hangs on the threads, on a clock of its own."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.threads = 0

    def work(self) -> None:
        self.now += self.seconds[self.threads]

    def use(self, threads: int) -> None:
        self.threads = threads

    def clock(self) -> float:
        return self.now


def test_the_best_is_measured_and_used() -> None:
    machine = Machine({1: 0.02, 2: 0.011, 4: 0.03})
    best, times = choose([machine.work, machine.work], 4, use=machine.use, clock=machine.clock)
    assert best == machine.threads == 2
    assert times[4] == pytest.approx([0.03, 0.03])


def test_slow_work_is_timed_once_but_with_every_number() -> None:
    machine = Machine({1: SECONDS, 2: 0.1, 4: 0.09, 8: 0.2})
    best, _ = choose([machine.work], 8, use=machine.use, clock=machine.clock)
    assert best == 4
    assert machine.now == pytest.approx(2 * SECONDS + 4 * 0.1 + 4 * 0.09 + 3 * 0.2)


def test_threads_that_wait_for_each_other_are_not_waited_for() -> None:
    machine = Machine({1: 0.02, 2: 5.0, 4: 0.001})
    best, times = choose([machine.work, machine.work], 4, use=machine.use, clock=machine.clock)
    assert best == machine.threads == 1
    assert list(times) == [1]
    assert machine.now < 5.5


def test_a_disturbed_round_does_not_count() -> None:
    machine = Machine({1: 0.02, 2: 0.01})
    rounds = iter([0.0, 9.0, 0.0, 0.0] * 2)

    def disturbed() -> None:
        machine.work()
        machine.now += next(rounds) * 0.1

    best, times = choose([disturbed], 2, use=machine.use, clock=machine.clock)
    assert best == 2
    assert times[1] == pytest.approx([0.02])


def test_it_is_set_for_torch() -> None:
    before = torch.get_num_threads()
    try:
        best, times = choose(stand_ins(torch.float32), min(cores(), 2))
        assert torch.get_num_threads() == best
        assert best in times
    finally:
        torch.set_num_threads(before)
