"""When a dead engine is followed by another, and when no more are tried."""

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final

FIRST_PAUSE: Final = 0.2
SECOND_PAUSE, LAST_PAUSE = 1.0, 60.0
MAX_DEATHS_LOADING: Final = 5
MAX_DEATHS: Final = 10
WINDOW_SECONDS: Final = 600.0


class Restarts:
    """Counts the deaths of an engine process.

    The first death since a picture was made costs little time; from the second on the pause doubles.

    Args:
        clock: monotonic seconds.
        spread: by how much pauses differ, so that several nodes do not start in step.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = lambda: random.uniform(0.8, 1.2),
    ) -> None:
        self._clock = clock
        self._spread = spread
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._in_a_row = 0
        self._before_loaded = 0
        self._is_loaded = False

    @property
    def cannot_load(self) -> bool:
        """Whether process after process died before it had a checkpoint."""
        return self._before_loaded >= MAX_DEATHS_LOADING

    @property
    def are_no_use(self) -> bool:
        """Whether so many died lately, without a picture in between, that something is broken for good."""
        recent = [at for at in self._deaths if at > self._clock() - WINDOW_SECONDS]
        return len(recent) >= MAX_DEATHS

    def died(self) -> float:
        """One more died; seconds until the next is to start."""
        self._deaths.append(self._clock())
        self._in_a_row += 1
        self._before_loaded = 0 if self._is_loaded else self._before_loaded + 1
        self._is_loaded = False
        doubled = SECOND_PAUSE * 2.0 ** min(self._in_a_row - 2, 10)
        pause = FIRST_PAUSE if self._in_a_row == 1 else min(LAST_PAUSE, doubled)
        return float(pause * self._spread())

    def loaded(self) -> None:
        """It has a checkpoint."""
        self._before_loaded = 0
        self._is_loaded = True

    def made_something(self) -> None:
        """A job was finished."""
        self._deaths.clear()
        self._in_a_row = 0
