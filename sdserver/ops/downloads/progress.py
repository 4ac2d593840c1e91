"""How far a download is, and how fast it goes."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """A download at one moment.

    Attributes:
        file: the name it will have, safe to show.
        done: bytes of the file that are on disk.
        total: bytes of the whole file, None while unknown.
        speed: bytes per second over the last seconds.
        eta: seconds until done, None while unknown.
        received: bytes that came over the network since the call to `fetch`, repeats included.
    """

    file: str
    done: int
    total: int | None
    speed: float
    eta: float | None
    received: int


class SpeedMeter:
    """Bytes per second over a sliding window.

    Args:
        window: seconds to look back.
        clock: monotonic seconds.
    """

    def __init__(self, window: float, clock: Callable[[], float]) -> None:
        self._window = window
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._count = 0
        self._begin = self._samples[0][0]

    def add(self, count: int) -> None:
        """Note that `count` bytes came."""
        now = self._clock()
        self._count += count
        # A sample per hundredth of the window keeps the list short at any chunk rate.
        if now - self._samples[-1][0] >= self._window / 100:
            self._samples.append((now, self._count))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window:
            self._samples.popleft()

    @property
    def speed(self) -> float:
        """Bytes per second over the window, or over the time since the start where that is shorter."""
        then, count = self._samples[0]
        elapsed = self._clock() - then
        return (self._count - count) / elapsed if elapsed > 0 else 0.0

    @property
    def full(self) -> bool:
        """Whether a whole window has passed since the start."""
        return self._clock() - self._begin >= self._window
