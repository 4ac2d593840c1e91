"""What crosses between the front process and an engine process: picklable, no tensors."""

from dataclasses import dataclass
from typing import Literal

from sdserver.jobs import events
from sdserver.jobs.events import JobEvent
from sdserver.jobs.job import Job

StopMode = Literal["interrupt", "skip", "drop"]
PreviewMethod = events.PreviewMethod


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
class Watch:
    """Show what jobs look like on their way, until they end or another Watch comes.

    Attributes:
        jobs: that were submitted; those that ended are ignored.
        every: evaluations between two previews of a job, 0 for no previews any more.
        method: how they are made.
    """

    jobs: tuple[str, ...]
    every: int
    method: PreviewMethod


@dataclass(frozen=True, slots=True)
class Load:
    """Have this checkpoint loaded before it is needed; answered by Loaded or LoadFailed."""

    checkpoint: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Free the device's memory of the checkpoints, in turn with the jobs; answered by Unloaded.

    The next Load or job brings its checkpoint back.
    """


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Finish the calls in hand and exit."""


ToEngine = Submit | Stop | Watch | Load | Unload | Shutdown


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
class Unloaded:
    """No checkpoint is on the device any more, or why there still is. Answers Unload."""

    failure: str = ""


@dataclass(frozen=True, slots=True)
class BatchRan:
    """One batch was run: its kind (text, predict, decode), rows, and seconds on the device."""

    kind: str
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Device memory in bytes; all None on a CPU.

    Attributes:
        free, total: of the whole device, whoever uses it.
        allocated, reserved: by the engine's tensors, and by PyTorch for them.
        active: of blocks that are in use or were and are not free yet.
        inactive: of the rest of blocks that were split.
        allocated_peak, reserved_peak, active_peak, inactive_peak: their most since the engine began.
        retries: how often memory was got only after unused blocks were given back; a count.
        ooms: how often memory did not suffice; a count.
    """

    free: int | None
    total: int | None
    allocated: int | None
    reserved: int | None
    active: int | None = None
    inactive: int | None = None
    allocated_peak: int | None = None
    reserved_peak: int | None = None
    active_peak: int | None = None
    inactive_peak: int | None = None
    retries: int | None = None
    ooms: int | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """The loop is alive. Sent about once a second, idle or busy between batches."""

    memory: MemoryFacts
    running: int
    waiting: int


FromEngine = Loaded | LoadFailed | Unloaded | BatchRan | Beat | JobEvent
