"""The only loop: collect the calls of all running programs, run a batch, send out the results.

The engine knows no workflow and no model. Everything here runs on one thread.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from sdserver.calls import DeviceCall, Interrupted, Report, UseModel
from sdserver.engine.batcher import Batcher, Pending
from sdserver.engine.logs import about
from sdserver.engine.messages import (
    BatchRan,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    Returned,
    StopMode,
    Unload,
    Unloaded,
    Watch,
)
from sdserver.engine.previews import PreviewBudget, Previews
from sdserver.engine.running import CELL, Running, checkpoint_of, describe, finished
from sdserver.engine.waiting import Item, Waiting
from sdserver.errors import SdServerError
from sdserver.jobs.events import Cancelled, Failed, Progress, Started
from sdserver.jobs.job import Img2Img, Job, Txt2Img, WithoutCheckpoint
from sdserver.jobs.keeping import Keeping
from sdserver.jobs.model import Model, ModelFacts
from sdserver.programs.program import ProgramTable

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

    def keep(self, keeping: Keeping) -> None:
        """Change how much stays in memory."""
        ...


class Engine:
    """Runs jobs. Call `submit`, `stop`, `load` and the like between steps, and `step` while it is busy.

    Args:
        device: runs the batches.
        programs: makes a job's program.
        batcher: holds and groups the calls.
        emit: is told every message; called on the engine's thread.
        max_running: how many programs may be on their way at once.
        clock: seconds, monotonic.
        timer: seconds by which batches are compared; the clock where None.
    """

    def __init__(
        self,
        device: Device,
        programs: ProgramTable,
        batcher: Batcher[DeviceCall],
        emit: Callable[[FromEngine], None],
        max_running: int,
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[], float] | None = None,
    ) -> None:
        self._device = device
        self._programs = programs
        self._batcher = batcher
        self._emit = emit
        self._max_running = max_running
        self._waiting = Waiting(clock)
        self._running: dict[str, Running] = {}
        self._parked: dict[str, list[DeviceCall]] = {}
        self._checkpoint: str | None = None
        self._told: str | None = None
        self._switch_seconds = 0.0
        self._clock = clock
        self._timer = timer or clock
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
        self._waiting.add(job)

    def load(self, checkpoint: str) -> None:
        """Queue the loading of a checkpoint, in turn with the jobs."""
        self._waiting.add(Load(checkpoint))

    def keep(self, keeping: Keeping) -> None:
        """Change how much stays in memory, at once."""
        self._device.keep(keeping)

    def unload(self) -> None:
        """Queue the freeing of the device's memory, in turn with the jobs."""
        self._waiting.add(Unload())

    def watch(self, watch: Watch) -> None:
        """Make previews of jobs from now on, or no longer; jobs that are not there are ignored."""
        there = {job.id for job in self._waiting.jobs()}
        for job_id in watch.jobs:
            if job_id in self._running or job_id in there:
                self._previews.watch(job_id, watch.every, watch.method)

    def arrange(self, job_ids: Sequence[str]) -> None:
        """Begin jobs that wait in this order; see `Waiting.arrange`."""
        self._waiting.arrange(job_ids)

    def recall(self, job_ids: Sequence[str]) -> None:
        """Give back jobs that have not begun; others are ignored."""
        for job_id in job_ids:
            if self._waiting.remove(job_id):
                self._previews.forget(job_id)
                self._emit(Returned(job_id))

    def stop(self, job_id: str, mode: StopMode) -> None:
        """End a job early; unknown and finished jobs are ignored."""
        if self._waiting.remove(job_id):
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
        with about([pending.owner for pending in batch]):
            results = self._run_timed(batch)
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

    def _run_timed(self, batch: list[Pending[DeviceCall]]) -> list[Any]:
        """Run a batch, and tell the batcher what it took if that asks for it."""
        calls = [pending.call for pending in batch]
        if not self._batcher.wants_time(batch):
            results = self._run(calls)
            self._batcher.ran(batch, None)
            return results
        self._settle()
        started = self._timer()
        results = self._run(calls)
        self._settle()
        seconds = self._timer() - started
        # A batch that failed tells nothing of what one takes.
        has_failed = any(isinstance(result, Exception) for result in results)
        self._batcher.ran(batch, None if has_failed else seconds)
        return results

    def _run(self, calls: list[DeviceCall]) -> list[Any]:
        try:
            return self._device.run(calls)
        except Exception as error:  # noqa: BLE001 - a fault in one batch must fail its jobs only
            return [error] * len(calls)

    def _settle(self) -> None:
        """Wait for the device; what it has to say of a fault it says again at the next batch."""
        with suppress(Exception):
            self._device.settle()

    def _admit(self) -> None:
        """Begin what may begin. While calls are parked only jobs that need no checkpoint do: so checkpoints
        switch as seldom as the order allows.
        """
        while len(self._running) < self._max_running:
            match self._next_to_begin():
                case None:
                    return
                case Load(checkpoint):
                    self._load(checkpoint)
                case Unload():
                    self._unload()
                case Txt2Img() | Img2Img() as job:
                    self._checkpoint = job.model.weights
                    self._begin(job)
                case job:
                    self._begin(job)

    def _next_to_begin(self) -> Item | None:
        found: Item | None = None
        if not self._parked:
            found = self._waiting.take(self._used(), self._has_room, self._switch_seconds)
        return found or self._waiting.take_without_checkpoint()

    def _used(self) -> str | None:
        """The checkpoint that the running jobs use; None if none of them needs one."""
        idle = all(isinstance(running.job, WithoutCheckpoint) for running in self._running.values())
        return None if idle else self._checkpoint

    def _has_room(self, job: Job) -> bool:
        """Whether the running jobs of its checkpoint and size do not fill a batch yet. One more than that
        would make no picture sooner, and all of theirs later.
        """
        if isinstance(job, WithoutCheckpoint):
            return True
        rows = sum(running.rows for running in self._running.values() if running.shares_size(job))
        shape = (0, job.size.height // CELL, job.size.width // CELL)
        return rows < self._batcher.rows(("predict", shape, job.model.weights))

    def _load(self, checkpoint: str) -> None:
        started = self._clock()
        (facts,) = self._run([UseModel(Model(checkpoint))])
        if isinstance(facts, ModelFacts):
            self._checkpoint = checkpoint
            self._tell_loaded(checkpoint, facts, self._clock() - started)
        else:
            self._checkpoint = self._told = None
            self._emit(LoadFailed(checkpoint, *describe(facts)))

    def _unload(self) -> None:
        self._checkpoint = self._told = None
        try:
            self._device.unload()
        except Exception as error:
            log.exception("the device's memory could not be freed")
            self._emit(Unloaded(describe(error)[1]))
        else:
            self._emit(Unloaded())

    def _tell_loaded(self, checkpoint: str, facts: ModelFacts, seconds: float) -> None:
        """Say which checkpoint is on the device now, also where a job brought it there."""
        self._told = checkpoint
        self._switch_seconds = seconds
        device = self._device
        self._emit(Loaded(checkpoint, facts.family, device.name, device.precision, seconds, facts.threads))

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
            self._emit(finished(job_id, end.value))
        except Interrupted:
            self._forget(job_id)
            self._emit(Cancelled(job_id))
        except Exception as error:
            if not isinstance(error, SdServerError):
                with about([job_id]):
                    log.exception("job %s failed", job_id)
            self._forget(job_id)
            self._emit(Failed(job_id, *describe(error)))
        else:
            calls = running.wait_for(wanted)
            if checkpoint_of(calls[0]) in (None, self._checkpoint):
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
                self._checkpoint = checkpoint_of(calls[0])
            if checkpoint_of(calls[0]) == self._checkpoint:
                self._batcher.add(job_id, self._parked.pop(job_id))

    def _uses_checkpoint(self) -> bool:
        """Whether a call waits that runs on a checkpoint."""
        return any(checkpoint_of(call) is not None for call in self._batcher.waiting())

    def _close(self, running: Running) -> None:
        self._forget(running.job.id)
        with suppress(Exception):
            running.program.close()

    def _forget(self, job_id: str) -> None:
        """The job is over."""
        del self._running[job_id]
        self._previews.forget(job_id)
