"""What crosses between the front process and an engine process: picklable, no tensors."""

from dataclasses import dataclass
from typing import Literal

from sdserver.jobs.events import JobEvent
from sdserver.jobs.job import Job

StopMode = Literal["interrupt", "skip", "drop"]


@dataclass(frozen=True, slots=True)
class Submit:
    """Run this job."""

    job: Job


@dataclass(frozen=True, slots=True)
class Stop:
    """End a job early: interrupt and skip keep the picture so far, drop throws it away."""

    job: str
    mode: StopMode


@dataclass(frozen=True, slots=True)
class Load:
    """Have this checkpoint loaded before it is needed; answered by Loaded or LoadFailed."""

    checkpoint: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Finish the calls in hand and exit."""


ToEngine = Submit | Stop | Load | Shutdown


@dataclass(frozen=True, slots=True)
class Loaded:
    """The checkpoint is on the device.

    Attributes:
        checkpoint: the path asked for.
        family: sd1, sd2 or sdxl.
        device, dtype: as torch names them, for people.
        seconds: how long loading took.
    """

    checkpoint: str
    family: str
    device: str
    dtype: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The checkpoint cannot be used. `error` names a class in `sdserver.errors`."""

    checkpoint: str
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchRan:
    """One batch was run: its kind (text, predict, decode), rows, and seconds on the device."""

    kind: str
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Device memory in bytes; all None on a CPU."""

    free: int | None
    total: int | None
    allocated: int | None
    reserved: int | None


@dataclass(frozen=True, slots=True)
class Beat:
    """The loop is alive. Sent about once a second, idle or busy between batches."""

    memory: MemoryFacts
    running: int
    waiting: int


FromEngine = Loaded | LoadFailed | BatchRan | Beat | JobEvent
