"""How many processor threads to compute with, found by a short measurement."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

SMALL_NETWORK: Final = 50_000_000
"""Parameters up to which the network itself is measured; one call of larger ones takes too long."""

SECONDS: Final = 2.0
"""For the measurement, in which every number of threads has its share. Where that is used up, work is timed
once only.
"""

ROUNDS: Final = 3
HOPELESS: Final = 4.0
"""Times the best known time: threads that wait for each other on a busy machine take a hundred times as long.
Neither this number of threads nor a larger one is measured then.
"""

HOPELESS_SECONDS: Final = 0.1
WORTH: Final = 0.95
"""More threads must bring the time to this share, or the fewer are taken: they leave the rest to others."""

ROWS: Final = (2, 16)
_WIDTH: Final = 640
_SIDE: Final = 32

Work = Callable[[], object]
Times = Mapping[int, Sequence[float]]
"""Seconds of each piece of work, by number of threads."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def candidates(most: int) -> list[int]:
    """The powers of two up to a number, and the number itself."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


def chosen(times: Times) -> int:
    """The number of threads with the least time; fewer if more bring little.

    Each piece of work counts as much as every other, however long it takes.
    """
    counts = sorted(times)
    best = counts[0]
    for count in counts[1:]:
        ratios = [after / before for after, before in zip(times[count], times[best], strict=True)]
        if math.prod(ratios) ** (1 / len(ratios)) < WORTH:
            best = count
    return best


def choose(
    works: Sequence[Work],
    most: int,
    *,
    use: Callable[[int], None] = torch.set_num_threads,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, Times]:
    """Measure, and have the calling thread compute with the best number of threads.

    Each piece of work is run a few times; its least time counts, for that is when nobody disturbed it.

    Args:
        works: what is to be fast.
        most: threads to try at most.
        use: sets the number for the calling thread.
        clock: seconds; real ones, since threads that wait for each other are to count.

    Returns:
        The number, and what was measured.
    """
    times: dict[int, list[float]] = {}
    counts = candidates(most)
    for count in counts:
        use(count)
        end = clock() + SECONDS / len(counts)
        found: list[float] = []
        for index, work in enumerate(works):
            known = min((before[index] for before in times.values()), default=math.inf)
            least = _least(work, clock, end, hopeless=max(HOPELESS * known, HOPELESS_SECONDS))
            if least is None:
                break
            found.append(least)
        if len(found) < len(works):
            break
        times[count] = found
    best = chosen(times)
    use(best)
    return best, times


def _least(work: Work, clock: Callable[[], float], end: float, hopeless: float) -> float | None:
    """The least time of a few, after a first that does not count; of one if it is late. None where the first
    already takes so long that there is no hope.
    """
    began = clock()
    work()
    if clock() - began > hopeless:
        return None
    found: list[float] = []
    while not found or (len(found) < ROUNDS and clock() < end):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


def stand_ins(dtype: torch.dtype) -> list[Work]:
    """What a large network mostly does, in small: a convolution and a linear layer, of `ROWS` rows in all."""
    kernel = torch.ones(_WIDTH, _WIDTH, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    plane = torch.ones(ROWS[0], _WIDTH, _SIDE // 2, _SIDE // 2, dtype=dtype)
    plane = plane.contiguous(memory_format=torch.channels_last)
    tokens = torch.ones(ROWS[1] * _SIDE, _WIDTH, dtype=dtype)

    def convolve() -> Tensor:
        return torch.conv2d(plane, kernel, padding=1)

    def project() -> Tensor:
        return torch.nn.functional.linear(tokens, weight)

    return [convolve, project]
