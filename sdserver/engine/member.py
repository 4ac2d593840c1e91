"""One of the engine processes behind the front, as the front sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine, Loaded, MemoryFacts, ToEngine
from sdserver.engine.restarts import MAX_DEATHS, MAX_DEATHS_LOADING, WINDOW_SECONDS, Restarts
from sdserver.jobs.job import Job, WithoutCheckpoint

PREFETCH: Final = 8
"""Jobs that an engine among several is given before it can begin them, so that it need not wait for more."""

MemberState = Literal["starting", "ready", "restarting", "failed"]


class EngineProcess(Protocol):
    """What the client needs of a supervisor."""

    @property
    def pid(self) -> int | None: ...
    def start(self) -> None: ...
    def send(self, message: ToEngine) -> None: ...
    async def stacks(self) -> str: ...
    async def stop(self) -> None: ...


Supervise = Callable[
    [EngineConfig, Callable[[FromEngine], None], Callable[[int | None], None]], EngineProcess
]


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One engine at one moment.

    Attributes:
        device: its name, unique among the node's.
        state: starting (it loads its first checkpoint), ready, restarting or failed.
        reason: why it failed; else empty.
        running, waiting: jobs that it began, and that it was given beside them.
        restarts: of its process, since the node started.
        loads: checkpoints that it brought to its device, since the node started.
        batches, rows, images: of the denoiser and in all, since the node started.
        memory: None before its first beat.
        model: that it has or had last.
    """

    device: str
    state: MemberState
    reason: str
    running: int
    waiting: int
    restarts: int
    loads: int
    batches: int
    rows: int
    images: int
    memory: MemoryFacts | None
    model: Loaded | None


@dataclass(slots=True, eq=False)
class Member:
    """An engine process and what it has in hand. Lives on the event loop.

    Attributes:
        number: its place among the node's engines.
        name: of its device, for people; unique.
        process: where messages go.
        restarts: counts its deaths.
        max_running: images that it works on at once at most.
        is_only: no other engine takes what this one does not.
        is_alive: there is a process.
        is_warming: it was asked for its first checkpoint and has not answered yet.
        unfit: why it has no checkpoint; empty where it has, or needs none yet.
        failed: why no other process is started; empty while one would be.
        sent: jobs that it holds, in the order in which they were sent.
        started: those of them that began.
        recalled: those of them that were asked back.
        is_alone: it runs a job that may end it, and is given nothing else.
        loads: checkpoints it was asked for, with its deaths since.
        refused: checkpoints that it could not load.
        last: the checkpoint to bring back after its death.
    """

    number: int
    name: str
    process: EngineProcess
    restarts: Restarts
    max_running: int
    is_only: bool
    is_alive: bool = False
    is_warming: bool = False
    is_alone: bool = False
    is_unloaded: bool = False
    unfit: str = ""
    failed: str = ""
    sent: dict[str, Job] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    recalled: set[str] = field(default_factory=set)
    loads: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    last: str | None = None
    model: Loaded | None = None
    memory: MemoryFacts | None = None
    deaths: int = 0
    load_count: int = 0
    batches: int = 0
    rows: int = 0
    images: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether jobs may be sent to it. The only engine is sent them while it loads, too."""
        return self.is_alive and (self.is_only or not (self.is_warming or self.unfit))

    @property
    def is_open(self) -> bool:
        """Whether it should be given one more job now."""
        if not self.is_ready or self.is_alone:
            return False
        if self.is_only:
            return True
        waiting = len(self.sent) - len(self.started)
        return waiting < PREFETCH and len(self.sent) < self.max_running + PREFETCH

    @property
    def state(self) -> MemberState:
        """For people."""
        if self.failed or self.unfit:
            return "failed"
        if self.is_alive and not self.is_warming and (self.load_count or not self.is_only):
            return "ready"
        return "restarting" if self.deaths else "starting"

    def uses(self, checkpoint: str) -> bool:
        """Whether the checkpoint is on its device, or has to come there for what it holds."""
        if self.model is not None and self.model.checkpoint == checkpoint and not self.is_unloaded:
            return True
        return checkpoint in self.loads or any(checkpoint_of(job) == checkpoint for job in self.sent.values())

    def unbegun(self) -> list[Job]:
        """What it holds, has not begun, and was not asked for."""
        busy = self.started | self.recalled
        return [job for job in self.sent.values() if job.id not in busy]

    def forget(self, job_id: str) -> None:
        """It holds the job no longer."""
        self.sent.pop(job_id, None)
        self.started.discard(job_id)
        self.recalled.discard(job_id)
        self.is_alone = self.is_alone and bool(self.sent)

    def died(self) -> None:
        """Its process ended."""
        self.is_alive = self.is_warming = self.is_alone = False
        self.unfit = ""
        self.memory = None
        self.deaths += 1
        for held in (self.sent, self.started, self.recalled):
            held.clear()

    def loaded(self, message: Loaded) -> None:
        """It has a checkpoint."""
        self.model, self.last = message, message.checkpoint
        self.is_unloaded = self.is_warming = False
        self.unfit = ""
        self.load_count += 1
        self.loads.pop(message.checkpoint, None)
        self.refused.discard(message.checkpoint)
        self.restarts.loaded()

    def cannot_load(self, checkpoint: str, reason: str) -> None:
        """A checkpoint cannot be used on its device. The one that it had, if another, is still there."""
        if self.model is not None and self.model.checkpoint == checkpoint:
            self.model = None
        if self.is_warming:
            self.unfit = reason
        self.is_warming = False
        self.loads.pop(checkpoint, None)
        self.refused.add(checkpoint)

    def why_no_more(self, exit_code: int | None, last: str | None) -> str:
        """Why, after a death, no other process would be of use; empty where one may be.

        Args:
            exit_code: of the last one.
            last: the checkpoint that each begins with, None for none.
        """
        if self.restarts.cannot_load and last is not None and not self.is_unloaded:
            return (
                f"The engine process ended {MAX_DEATHS_LOADING} times in a row before it had its checkpoint "
                f"again (last exit code {exit_code})."
            )
        if self.restarts.are_no_use:
            return (
                f"The engine process ended {MAX_DEATHS} times within {WINDOW_SECONDS / 60:g} minutes without "
                f"finishing anything (last exit code {exit_code})."
            )
        return ""

    def facts(self) -> DeviceFacts:
        """A frozen picture of it."""
        return DeviceFacts(
            device=self.name,
            state=self.state,
            reason=self.failed or self.unfit,
            running=len(self.started),
            waiting=len(self.sent) - len(self.started),
            restarts=self.deaths,
            loads=self.load_count,
            batches=self.batches,
            rows=self.rows,
            images=self.images,
            memory=self.memory,
            model=self.model,
        )


def checkpoint_of(job: Job) -> str | None:
    """The checkpoint that a job begins with; None where it needs none."""
    return None if isinstance(job, WithoutCheckpoint) else job.model.checkpoint


def total(memories: list[MemoryFacts]) -> MemoryFacts | None:
    """Several devices' memory together; None where nothing is known of any."""
    if len(memories) < 2:
        return memories[0] if memories else None
    sums: dict[str, int | None] = {}
    for name in MemoryFacts.__slots__:
        known = [value for one in memories if (value := getattr(one, name)) is not None]
        sums[name] = sum(known) if known else None
    return MemoryFacts(**sums)


def names_of(devices: list[str]) -> list[str]:
    """Devices' names for people; one that is there several times is numbered."""
    counts: dict[str, int] = {}
    names = []
    for device in devices:
        place = counts[device] = counts.get(device, -1) + 1
        names.append(f"{device}/{place}" if devices.count(device) > 1 else device)
    return names
