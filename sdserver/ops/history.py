"""What the node did over the last hour, as points for plots."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdserver.engine.messages import BatchRan, FromEngine, MemoryFacts
from sdserver.jobs.events import Finished
from sdserver.ops.metrics import Load

SECONDS: Final = 5.0
"""Between two points."""

LENGTH: Final = 720
"""Points that are kept: an hour."""

RATE_POINTS: Final = 12
"""Over how many points images are counted, for a rate."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How much memory is used.

    Attributes:
        kind: of the whole device, or of the engine's process where the device is the CPU.
        used, total: bytes; of the process's `total` is the machine's.
    """

    kind: str
    used: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Point:
    """The node at the end of an interval.

    Attributes:
        time: seconds since 1970.
        images_per_minute: over the last minute.
        rows: of a batch of the denoiser on average; None where none was run.
        memory: bytes that are used; None where that is not known.
    """

    time: float
    images_per_minute: float
    rows: float | None
    running: int
    waiting: int
    memory: int | None


class History:
    """Counts between points. Lives on the event loop.

    Args:
        load: how busy the engine is.
        memory: how much is used.
        clock: seconds since 1970.
    """

    def __init__(
        self, load: Load, memory: Callable[[], Memory | None], clock: Callable[[], float] = time.time
    ) -> None:
        self._load = load
        self._memory = memory
        self._clock = clock
        self._points: deque[Point] = deque(maxlen=LENGTH)
        self._counts: deque[int] = deque(maxlen=RATE_POINTS)
        self._images = self._rows = self._batches = 0

    def observe(self, message: FromEngine) -> None:
        """Take in what the engine says."""
        match message:
            case Finished(picture=picture) if picture.width:
                self._images += 1
            case BatchRan(kind="predict", rows=rows):
                self._rows += rows
                self._batches += 1

    def end_interval(self) -> None:
        """Make a point of what was counted."""
        self._counts.append(self._images)
        memory = self._memory()
        minutes = len(self._counts) * SECONDS / 60
        self._points.append(
            Point(
                time=round(self._clock(), 3),
                images_per_minute=round(sum(self._counts) / minutes, 3),
                rows=self._rows / self._batches if self._batches else None,
                running=self._load.running,
                waiting=self._load.waiting,
                memory=None if memory is None else memory.used,
            )
        )
        self._images = self._rows = self._batches = 0

    async def record(self) -> None:
        """Make points for ever."""
        while True:
            await asyncio.sleep(SECONDS)
            self.end_interval()

    def since(self, seconds: float) -> tuple[Point, ...]:
        """The points after a time, in seconds since 1970, oldest first."""
        return tuple(point for point in self._points if point.time > seconds)


def memory_used(facts: MemoryFacts | None, *pids: int | None) -> Memory | None:
    """The devices' memory, else the processes'; None where neither is known."""
    if facts is not None and facts.free is not None and facts.total is not None:
        return Memory("device", facts.total - facts.free, facts.total)
    resident = [found for pid in pids if pid is not None and (found := _resident(pid)) is not None]
    return Memory("process", sum(resident), _machine_memory()) if resident else None


def _resident(pid: int) -> int | None:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _machine_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
