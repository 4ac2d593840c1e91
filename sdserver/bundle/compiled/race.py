"""Which of two ways is the faster one, by the calls that come anyway."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Literal, TypeVar

ResultT = TypeVar("ResultT")
Way = Literal["eager", "compiled"]

HEATS: Final = 3
"""Calls of each way, of which the fastest counts."""

KNOWN: Final = 256


class Race:
    """Times of both ways by shape. Until a shape's race is decided, the ways take turns.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._times: OrderedDict[Hashable, dict[Way, list[float]]] = OrderedDict()

    def next_way(self, shape: Hashable) -> Way:
        """The way that a call of this shape should go."""
        times = self._times.get(shape)
        if times is None:
            return "compiled"
        eager, compiled = times["eager"], times["compiled"]
        if len(compiled) < HEATS or len(eager) < HEATS:
            return "compiled" if len(compiled) <= len(eager) else "eager"
        return "compiled" if min(compiled) <= min(eager) else "eager"

    def timed(self, shape: Hashable, way: Way, call: Callable[[], ResultT]) -> ResultT:
        """Make a call, and take its time as long as the race is on."""
        times = self._times.setdefault(shape, {"eager": [], "compiled": []})
        if len(self._times) > KNOWN:
            self._times.popitem(last=False)
        if len(times[way]) >= HEATS:
            return call()
        began = self._clock()
        result = call()
        times[way].append(self._clock() - began)
        return result
