"""Tells when an engine that should speak has been silent for too long.

Whatever the engine says is said by the thread that owns its device: after each batch, and at least once a
second while there is work. So silence means that this thread stands still, whether the process is stopped,
the driver hangs or a batch never ends. A call that may take long is announced by that thread; while it runs,
and only then, another one says once a second that the process lives, so that one that is stopped is found out
in the middle of a long call, too.
"""

import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

from sdserver.engine.messages import (
    BatchRan,
    Beat,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    Logged,
    LongCall,
    Pulse,
    Returned,
    Submit,
    ToEngine,
    Unload,
    Unloaded,
)
from sdserver.jobs.events import Cancelled, Failed, Finished

CPU_SECONDS: Final = 120.0
ACCELERATOR_SECONDS: Final = 60.0
"""Least silence that is a hang where the operator named no limit: batches of one kind differ in size."""
START_SECONDS: Final = 600.0
"""For a process to import its libraries and say its first word."""
REST_SECONDS: Final = 30.0
"""For an engine without work, which speaks every ten."""
TIMES_MEDIAN, TIMES_LONGEST = 20, 5
_BATCHES: Final = 64
_SETTLED_SECONDS: Final = 5.0
_UNLOAD: Final = "unload"


class Watchdog:
    """Follows what is sent to one engine and what it says, and measures its silence.

    Time in which nobody looked, because this process or the whole machine stood still, does not count.

    Args:
        limit: seconds of silence with work in hand that are a hang; 0 finds them by the device and the
            batches so far.
        clock: monotonic seconds.
    """

    def __init__(self, limit: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._given = limit
        self._clock = clock
        self._seconds: deque[float] = deque(maxlen=_BATCHES)
        self._is_cpu = True
        self.started()

    def started(self) -> None:
        """A fresh process begins; what the last one was given is forgotten."""
        self._looked = self._sent_at = self._clock()
        self._silence = self._pulseless = 0.0
        self._allowed: float | None = START_SECONDS
        self._has_pulse = False
        self._work: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether the engine has work, as far as this end knows."""
        return bool(self._work)

    @property
    def limit(self) -> float:
        """Seconds of silence that are a hang now."""
        usual = self._usual
        if self._allowed is not None:
            return max(usual, self._allowed)
        return usual if self._work else max(usual, REST_SECONDS)

    @property
    def _usual(self) -> float:
        usual = self._given or (CPU_SECONDS if self._is_cpu else ACCELERATOR_SECONDS)
        if self._seconds:
            usual = max(usual, TIMES_MEDIAN * median(self._seconds))
        if self._seconds and not self._given:
            usual = max(usual, TIMES_LONGEST * max(self._seconds))
        return usual

    @property
    def pause(self) -> float:
        """Seconds until `look` should be called again."""
        return min(1.0 if self._work else 5.0, self._usual / 4)

    def sent(self, message: ToEngine) -> None:
        """The engine was sent something; where it had no work, its silence begins now."""
        name = _name_of(message)
        if name is None:
            return
        if not self._work:
            self._silence = 0.0
        self._work.add(name)
        self._sent_at = self._clock()

    def heard(self, message: FromEngine) -> None:
        """The engine said something."""
        self._pulseless = 0.0
        if isinstance(message, Pulse | Logged):  # others than the device's thread may say that
            return
        self._silence = 0.0
        self._has_pulse = isinstance(message, LongCall)
        self._allowed = message.seconds if isinstance(message, LongCall) else None
        match message:
            case BatchRan(seconds=seconds):
                self._seconds.append(seconds)
            case Finished(job=job) | Failed(job=job) | Cancelled(job=job) | Returned(job=job):
                self._work.discard(job)
            case Loaded(checkpoint=checkpoint):
                self._is_cpu = message.device == "cpu"
                self._work.discard(_load(checkpoint))
            case LoadFailed(checkpoint=checkpoint):
                self._work.discard(_load(checkpoint))
            case Unloaded():
                self._work.discard(_UNLOAD)
            # What it has not even begun after so long met no answer: it will have none.
            case Beat(running=0, waiting=0) if self._clock() - self._sent_at > _SETTLED_SECONDS:
                self._work.clear()
            case _:
                pass

    def look(self) -> float | None:
        """Seconds of silence if they are too many, else None."""
        now = self._clock()
        passed = min(now - self._looked, 2 * self.pause)
        self._looked = now
        self._silence += passed
        self._pulseless += passed
        if self._has_pulse and self._pulseless > self._usual:
            return self._pulseless
        return self._silence if self._silence > self.limit else None


def _load(checkpoint: str) -> str:
    return f"load {checkpoint}"


def _name_of(message: ToEngine) -> str | None:
    """What the engine has to do until it answers; None where it need not answer."""
    match message:
        case Submit(job):
            return job.id
        case Load(checkpoint):
            return _load(checkpoint)
        case Unload():
            return _UNLOAD
        case _:
            return None
