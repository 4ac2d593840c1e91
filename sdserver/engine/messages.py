"""What crosses between the front process and an engine process: picklable, no tensors."""

from dataclasses import dataclass
from typing import Final, Literal

from sdserver.jobs import events
from sdserver.jobs.events import JobEvent
from sdserver.jobs.job import Job
from sdserver.jobs.keeping import Keeping

EXIT_LOST: Final = 70
"""Exit code of an engine process whose device answers nothing but errors."""

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
class Arrange:
    """Begin these jobs in this order: of the places that they hold among all that wait, each has another.

    Jobs that have begun or ended are ignored.
    """

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """Give these jobs back for another engine; each that has not begun is answered by Returned."""

    jobs: tuple[str, ...]


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
class Keep:
    """Keep so many checkpoints and VAEs in memory from now on."""

    keeping: Keeping


@dataclass(frozen=True, slots=True)
class Collect:
    """Give back memory that nothing uses, between two batches; answered by Collected."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Finish the calls in hand and exit."""


ToEngine = Submit | Stop | Watch | Arrange | Recall | Load | Unload | Keep | Collect | Shutdown


@dataclass(frozen=True, slots=True)
class Loaded:
    """The checkpoint is on the device.

    Attributes:
        checkpoint: the path asked for.
        family: sd1, sd2 or sdxl.
        device, dtype: as torch names them, for people.
        seconds: how long loading took.
        threads: of the processor that computes; None where another device does.
    """

    checkpoint: str
    family: str
    device: str
    dtype: str
    seconds: float
    threads: int | None = None


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
class Returned:
    """The job had not begun, and is the engine's no longer. Answers Recall."""

    job: str


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
class Collected:
    """What memory is left in use. Answers Collect."""

    memory: MemoryFacts


@dataclass(frozen=True, slots=True)
class Logged:
    """A line for the front's log. Ends at the supervisor, or at the client if it is about jobs.

    Attributes:
        logger: the name of who says it.
        level: as `logging` counts.
        text: with the traceback, if there is one.
        jobs: what was worked on.
    """

    logger: str
    level: int
    text: str
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Beat:
    """The loop is alive. Sent about once a second between batches, and every ten while nothing is to do."""

    memory: MemoryFacts
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class LongCall:
    """The device's thread may be silent from now on for longer than a batch takes; meanwhile another thread
    sends Pulse. Ends at the supervisor.

    Attributes:
        kind: load, unload, first (batch of its shape) or beside (the checkpoints).
        seconds: how long it may be silent.
    """

    kind: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Pulse:
    """The process runs, in the middle of a long call. Sent about once a second; ends at the supervisor."""


@dataclass(frozen=True, slots=True)
class Hung:
    """The engine was silent for too long and is being ended; said by its supervisor, not by itself.

    Attributes:
        seconds: of silence.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Mended:
    """Something went wrong on the device and was made good: its jobs go on.

    Attributes:
        what: oom (memory did not suffice, and the batch is run in parts) or nan (the VAE's result was not
            a number, and it goes on in fp32).
    """

    what: Literal["oom", "nan"]


Answer = Loaded | LoadFailed | Unloaded | Collected | Returned
FromEngine = Answer | BatchRan | Beat | LongCall | Pulse | Logged | Hung | Mended | JobEvent
