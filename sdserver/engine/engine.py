"""The only loop: collect the calls of all running programs, run a batch, send out the results.

The engine knows no workflow and no model. Everything here runs on one thread.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdserver.calls import Caption, DeviceCall, Interrupted, Report, Upscale, UseModel
from sdserver.engine.batcher import Batcher, Pending
from sdserver.engine.messages import (
    BatchRan,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    StopMode,
    Unload,
    Unloaded,
    Watch,
)
from sdserver.engine.previews import PreviewBudget, Previews
from sdserver.errors import EngineFailure, SdServerError
from sdserver.jobs.events import Cancelled, Failed, Finished, Progress, Started
from sdserver.jobs.job import Describe, Enlarge, Job, WithoutCheckpoint
from sdserver.jobs.model import Model, ModelFacts
from sdserver.programs.program import Outcome, Program, ProgramTable

log = logging.getLogger(__name__)


class Device(Protocol):
    """What runs batches: the bundle, or a toy in tests."""

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def run(self, calls: Sequence[DeviceCall]) -> list[Any]:
        """One result per call, in order; an exception object where a call failed."""
        ...

    def settle(self) -> None:
        """Wait until all that was asked of the device is done."""
        ...

    def unload(self) -> None:
        """Free the device's memory of all checkpoints; the next call that needs one brings it back."""
        ...


@dataclass(slots=True)
class Running:
    """A program on its way: the calls it waits for and the answers so far."""

    job: Job
    program: Program
    single: bool = True
    answers: list[Any] = field(default_factory=list)
    missing: int = 0


class Engine:
    """Runs jobs. Call `submit`, `stop`, `load` and the like between steps, and `step` while it is busy.

    Args:
        device: runs the batches.
        programs: makes a job's program.
        batcher: holds and groups the calls.
        emit: is told every message; called on the engine's thread.
        max_running: how many programs may be on their way at once.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        device: Device,
        programs: ProgramTable,
        batcher: Batcher[DeviceCall],
        emit: Callable[[FromEngine], None],
        max_running: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._programs = programs
        self._batcher = batcher
        self._emit = emit
        self._max_running = max_running
        self._waiting: deque[Job | Load | Unload] = deque()
        self._running: dict[str, Running] = {}
        self._parked: dict[str, list[DeviceCall]] = {}
        self._checkpoint: str | None = None
        self._told: str | None = None
        self._clock = clock
        self._previews = Previews(device, emit, clock, PreviewBudget())

    @property
    def running(self) -> int:
        """How many programs are on their way."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many jobs and loads have not begun."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._running or self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a job; it begins when its turn comes."""
        self._waiting.append(job)

    def load(self, checkpoint: str) -> None:
        """Queue the loading of a checkpoint, in turn with the jobs."""
        self._waiting.append(Load(checkpoint))

    def unload(self) -> None:
        """Queue the freeing of the device's memory, in turn with the jobs."""
        self._waiting.append(Unload())

    def watch(self, watch: Watch) -> None:
        """Make previews of jobs from now on, or no longer; jobs that are not there are ignored."""
        there = {item.id for item in self._waiting if not isinstance(item, Load | Unload)}
        for job_id in watch.jobs:
            if job_id in self._running or job_id in there:
                self._previews.watch(job_id, watch.every, watch.method)

    def stop(self, job_id: str, mode: StopMode) -> None:
        """End a job early; unknown and finished jobs are ignored."""
        for item in self._waiting:
            if not isinstance(item, Load | Unload) and item.id == job_id:
                self._waiting.remove(item)
                self._previews.forget(job_id)
                self._emit(Cancelled(job_id))
                return
        running = self._running.get(job_id)
        if running is None:
            return
        self._batcher.drop(job_id)
        self._parked.pop(job_id, None)
        if mode == "drop":
            self._close(running)
            self._emit(Cancelled(job_id))
        else:
            self._resume(running, lambda: running.program.throw(Interrupted()))

    def step(self) -> None:
        """Begin the jobs that may begin, then run one batch."""
        self._admit()
        if self._parked and not self._uses_checkpoint():
            self._unpark()
        batch = self._batcher.next_batch()
        if not batch:
            return
        started = self._clock()
        results = self._run([pending.call for pending in batch])
        kind, first = batch[0].key[0], batch[0].call
        seconds = self._clock() - started
        self._emit(BatchRan(str(kind), len(batch), seconds))
        if (
            isinstance(first, UseModel)
            and isinstance(results[0], ModelFacts)
            and first.model.checkpoint != self._told
        ):
            self._tell_loaded(first.model.checkpoint, results[0], seconds)
        for pending, result in zip(batch, results, strict=True):
            self._deliver(pending, result)
        self._previews.stepped(self._checkpoint, self._clock() - started)

    def _run(self, calls: list[DeviceCall]) -> list[Any]:
        try:
            return self._device.run(calls)
        except Exception as error:  # noqa: BLE001 - a fault in one batch must fail its jobs only
            return [error] * len(calls)

    def _admit(self) -> None:
        """Begin waiting jobs in order. Jobs of another checkpoint wait until the running ones end,
        and nothing overtakes them: so checkpoints switch as seldom as the order allows. For the same
        reason none begins while calls are parked. Jobs that need no checkpoint wait for nobody.
        """
        while self._waiting and len(self._running) < self._max_running and self._may_begin(self._waiting[0]):
            match self._waiting.popleft():
                case Load(checkpoint):
                    self._load(checkpoint)
                case Unload():
                    self._unload()
                case Enlarge() | Describe() as job:
                    self._begin(job)
                case job:
                    self._checkpoint = job.model.checkpoint
                    self._begin(job)
        for job in [item for item in self._waiting if isinstance(item, WithoutCheckpoint)]:
            if len(self._running) >= self._max_running:
                return
            self._waiting.remove(job)
            self._begin(job)

    def _may_begin(self, item: Job | Load | Unload) -> bool:
        """Whether what is on its way lets it begin."""
        if isinstance(item, WithoutCheckpoint):
            return True
        if self._parked:
            return False
        if all(isinstance(running.job, WithoutCheckpoint) for running in self._running.values()):
            return True
        match item:
            case Unload():
                return False
            case Load(checkpoint):
                return checkpoint == self._checkpoint
            case job:
                return job.model.checkpoint == self._checkpoint

    def _load(self, checkpoint: str) -> None:
        started = self._clock()
        (facts,) = self._run([UseModel(Model(checkpoint))])
        if isinstance(facts, ModelFacts):
            self._checkpoint = checkpoint
            self._tell_loaded(checkpoint, facts, self._clock() - started)
        else:
            self._checkpoint = self._told = None
            self._emit(LoadFailed(checkpoint, *_describe(facts)))

    def _unload(self) -> None:
        self._checkpoint = self._told = None
        try:
            self._device.unload()
        except Exception as error:
            log.exception("the device's memory could not be freed")
            self._emit(Unloaded(_describe(error)[1]))
        else:
            self._emit(Unloaded())

    def _tell_loaded(self, checkpoint: str, facts: ModelFacts, seconds: float) -> None:
        """Say which checkpoint is on the device now, also where a job brought it there."""
        self._told = checkpoint
        self._emit(Loaded(checkpoint, facts.family, self._device.name, self._device.precision, seconds))

    def _begin(self, job: Job) -> None:
        running = Running(job, self._programs(job))
        self._running[job.id] = running
        self._emit(Started(job.id))
        self._resume(running, lambda: next(running.program))

    def _deliver(self, pending: Pending[DeviceCall], result: object) -> None:
        running = self._running.get(pending.owner)
        if running is None:
            return
        running.answers[pending.slot] = result
        running.missing -= 1
        if running.missing:
            return
        failure = next((answer for answer in running.answers if isinstance(answer, Exception)), None)
        if failure is not None:
            self._resume(running, lambda: running.program.throw(failure))
        else:
            answer = running.answers[0] if running.single else list(running.answers)
            self._resume(running, lambda: running.program.send(answer))

    def _resume(self, running: Running, advance: Callable[[], Any]) -> None:
        """Advance a program to its next device calls, or to its end."""
        job_id = running.job.id
        try:
            wanted = advance()
            while isinstance(wanted, Report):
                self._emit(Progress(job_id, wanted.step, wanted.steps))
                self._previews.note(job_id, wanted)
                wanted = running.program.send(None)
        except StopIteration as end:
            self._forget(job_id)
            self._emit(_finished(job_id, end.value))
        except Interrupted:
            self._forget(job_id)
            self._emit(Cancelled(job_id))
        except Exception as error:
            if not isinstance(error, SdServerError):
                log.exception("job %s failed", job_id)
            self._forget(job_id)
            self._emit(Failed(job_id, *_describe(error)))
        else:
            running.single = not isinstance(wanted, list)
            calls = [wanted] if running.single else wanted
            running.answers = [None] * len(calls)
            running.missing = len(calls)
            if _checkpoint_of(calls[0]) in (None, self._checkpoint):
                self._batcher.add(job_id, calls)
            else:
                self._parked[job_id] = calls

    def _unpark(self) -> None:
        """Let the calls go on that wait for another checkpoint than the one on the device.

        A refiner's or second pass's checkpoint comes in mid-job: the calls that it gets wait until no
        program has any for the current one, so that not every batch switches. Those that wait longest
        decide which one is next.
        """
        for job_id, calls in list(self._parked.items()):
            if not self._uses_checkpoint():
                self._checkpoint = _checkpoint_of(calls[0])
            if _checkpoint_of(calls[0]) == self._checkpoint:
                self._batcher.add(job_id, self._parked.pop(job_id))

    def _uses_checkpoint(self) -> bool:
        """Whether a call waits that runs on a checkpoint."""
        return any(_checkpoint_of(call) is not None for call in self._batcher.waiting())

    def _close(self, running: Running) -> None:
        self._forget(running.job.id)
        with suppress(Exception):
            running.program.close()

    def _forget(self, job_id: str) -> None:
        """The job is over."""
        del self._running[job_id]
        self._previews.forget(job_id)


def _checkpoint_of(call: DeviceCall) -> str | None:
    """The checkpoint that a call runs on, None if it needs none."""
    return None if isinstance(call, Upscale | Caption) else call.model.checkpoint


def _finished(job_id: str, outcome: Outcome) -> Finished:
    return Finished(
        job_id, outcome.picture, outcome.interrupted, outcome.used, outcome.new_parts, outcome.text
    )


def _describe(error: object) -> tuple[str, str]:
    """Name and sentence of an error; what is not of our tree is an EngineFailure."""
    if isinstance(error, SdServerError):
        return type(error).__name__, str(error)
    return EngineFailure.__name__, f"{type(error).__name__}: {error}"
