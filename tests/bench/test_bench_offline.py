"""Which static batches are tried, and how their rates are counted."""

import time
from typing import Any

from bench.offline import measured


class Made:
    """Batches that take so long by the clock, and a hundredth of a second of the processor."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.ran: list[int] = []

    def run(self, pictures: int) -> float:
        self.ran.append(pictures)
        until = time.process_time() + 0.01
        while time.process_time() < until:
            pass
        return self.seconds[pictures]


def tried(seconds: dict[int, float], rounds: int = 2) -> tuple[Made, Any, Any]:
    made: Any = Made(seconds)
    return made, *measured(made, list(seconds), rounds)


def test_rates_are_pictures_by_the_clock_and_by_the_processor() -> None:
    made, found, by_cpu = tried({4: 2.0, 8: 2.0})
    assert found == {4: [2.0, 2.0], 8: [4.0, 4.0]}
    assert made.ran == [4, 4, 4, 8, 8, 8], "each is run once to warm up"
    assert [len(rates) for rates in by_cpu.values()] == [2, 2]
    assert all(0 < rate <= batch / 0.01 for batch in by_cpu for rate in by_cpu[batch])


def test_larger_batches_are_tried_until_two_gained_nothing() -> None:
    _, found, _ = tried({1: 1.0, 2: 1.0, 4: 4.0, 8: 8.0, 16: 1.0})
    assert list(found) == [1, 2, 4, 8]
