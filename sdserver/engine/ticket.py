"""One request's jobs, as its client sees them."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Literal

from sdserver import errors
from sdserver.engine.messages import PreviewMethod, StopMode, Watch
from sdserver.errors import CheckpointError, EngineFailure, JobError, MissingModel, RequestError
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent, Picture, Previewed, Progress, Started
from sdserver.jobs.job import Job, WithoutCheckpoint

log = logging.getLogger(__name__)

TicketState = Literal["queued", "running", "done"]
Terminal = Finished | Failed | Cancelled


class Ticket:
    """Follows the jobs of one request to their ends.

    Args:
        request_id: unique per request.
        jobs: one per image.
        stop_jobs: asked to end jobs early.
        watch_jobs: asked for previews of jobs; None where none can be made.
        on_event: told every event of the jobs after the ticket took it in.

    Attributes:
        context: in which the request was submitted; the log finds in it what the request is called.
    """

    def __init__(
        self,
        request_id: str,
        jobs: Sequence[Job],
        stop_jobs: Callable[[Sequence[str], StopMode], None],
        watch_jobs: Callable[[Watch], None] | None = None,
        on_event: Callable[[JobEvent], None] | None = None,
    ) -> None:
        self.id = request_id
        self.jobs = tuple(jobs)
        self.context = copy_context()
        self.created_at = time.monotonic()
        self.started_at: float | None = None
        self._stop_jobs = stop_jobs
        self._watch_jobs = watch_jobs
        self._on_event = on_event
        self._every = 0
        self._method: PreviewMethod = "cheap"
        self._previews: dict[str, Picture] = {}
        self._preview_step = 0
        self._progress = {job.id: (0, _steps(job)) for job in jobs}
        self._started: set[str] = set()
        self._ends: dict[str, Terminal] = {}
        self._done = asyncio.Event()
        if not self.jobs:
            self._done.set()

    @property
    def state(self) -> TicketState:
        """Queued until its first job begins, done when its last one ended."""
        if self._done.is_set():
            return "done"
        return "queued" if self.started_at is None else "running"

    @property
    def steps_done(self) -> int:
        """Evaluations done, over all images."""
        return sum(done for done, _ in self._progress.values())

    @property
    def steps_total(self) -> int:
        """Evaluations in all, as far as known: a job that has not begun counts its steps."""
        return sum(total for _, total in self._progress.values())

    @property
    def images_done(self) -> int:
        """Jobs that ended."""
        return len(self._ends)

    @property
    def images_started(self) -> int:
        """Jobs that began at least once."""
        return len(self._started)

    @property
    def started(self) -> frozenset[str]:
        """Jobs that began and have not ended."""
        return frozenset(self._started - self._ends.keys())

    @property
    def previews(self) -> tuple[Picture, ...]:
        """The latest preview of each job that has one and has not ended, in the jobs' order."""
        return tuple(self._previews[job.id] for job in self.jobs if job.id in self._previews)

    @property
    def preview_step(self) -> int:
        """How many previews were seen: another number, another look."""
        return self._preview_step

    @property
    def unfinished(self) -> tuple[Job, ...]:
        """Jobs that have not ended, in order."""
        return tuple(job for job in self.jobs if job.id not in self._ends)

    async def results(self) -> tuple[Finished | Cancelled, ...]:
        """Every job's end, in the jobs' order.

        Raises:
            JobError: one of the jobs failed; the first failure's class and sentence.
            CheckpointError: a job's checkpoint cannot be used.
            RequestError: a job asks for what only the loaded checkpoint shows to be impossible.
            MissingModel: a job needs a model that is not there.
        """
        await self._done.wait()
        ends = [self._ends[job.id] for job in self.jobs]
        for end in ends:
            if isinstance(end, Failed):
                raise error_of(end)
        return tuple(end for end in ends if not isinstance(end, Failed))

    def stop(self, mode: StopMode) -> None:
        """End the request early. `skip` ends only the images on their way, the others all."""
        jobs = self.started if mode == "skip" else [job.id for job in self.unfinished]
        if jobs:
            self._stop_jobs(tuple(jobs), mode)

    def watch(self, every: int, method: PreviewMethod) -> None:
        """Have previews made of the jobs that have not ended, also of those that have not begun.

        Args:
            every: evaluations between two previews of a job, at least 1.
            method: how they are made.
        """
        if (every, method) != (self._every, self._method):
            self._every, self._method = every, method
            if self._watch_jobs is not None:
                self._watch_jobs(Watch(tuple(job.id for job in self.unfinished), every, method))

    def unwatch(self) -> None:
        """Have no previews made any more; those that are there stay."""
        if self._every:
            self.watch(0, self._method)

    def watch_of(self, job_id: str) -> Watch | None:
        """What an engine must be told of a job that it is given now, None where nobody watches."""
        return Watch((job_id,), self._every, self._method) if self._every else None

    def observe(self, event: JobEvent) -> None:
        """Take in one of the jobs' events and pass it on; whatever follows a job's end is ignored."""
        if event.job not in self._ends:
            self._take_in(event)
            self._tell(event)

    def _tell(self, event: JobEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("request %s: its listener failed", self.id)

    def _take_in(self, event: JobEvent) -> None:
        match event:
            case Started():
                self._started.add(event.job)
                self.started_at = self.started_at or time.monotonic()
            case Progress():
                self._progress[event.job] = (event.step, event.steps)
            case Previewed():
                self._previews[event.job] = event.picture
                self._preview_step += 1
            case _:
                _, total = self._progress[event.job]
                self._progress[event.job] = (total, total)
                self._ends[event.job] = event
                self._previews.pop(event.job, None)
                if len(self._ends) == len(self.jobs):
                    self._done.set()

    def restart(self, job_id: str) -> None:
        """The job's engine died: it begins again from its first step."""
        self._started.discard(job_id)
        self._previews.pop(job_id, None)
        _, total = self._progress[job_id]
        self._progress[job_id] = (0, total)


def _steps(job: Job) -> int:
    """How many evaluations a job counts before it has told."""
    return 1 if isinstance(job, WithoutCheckpoint) else job.sampling.steps


def error_of(event: Failed) -> JobError | CheckpointError | RequestError | MissingModel:
    """The failure as an exception of our tree. Of a field at fault only the sentence is known."""
    kind = getattr(errors, event.error, None)
    if isinstance(kind, type) and issubclass(kind, RequestError):
        return RequestError(event.message)
    if isinstance(kind, type) and issubclass(kind, JobError | CheckpointError | MissingModel):
        return kind(event.message)
    return EngineFailure(event.message)
