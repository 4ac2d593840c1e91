"""One request's jobs, as its client sees them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Literal

from sdserver import errors
from sdserver.engine.messages import StopMode
from sdserver.errors import CheckpointError, EngineFailure, JobError, RequestError
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent, Progress, Started
from sdserver.jobs.job import Job

TicketState = Literal["queued", "running", "done"]
Terminal = Finished | Failed | Cancelled


class Ticket:
    """Follows the jobs of one request to their ends.

    Args:
        request_id: unique per request.
        jobs: one per image.
        stop_jobs: asked to end jobs early.
    """

    def __init__(
        self, request_id: str, jobs: Sequence[Job], stop_jobs: Callable[[Sequence[str], StopMode], None]
    ) -> None:
        self.id = request_id
        self.jobs = tuple(jobs)
        self.created_at = time.monotonic()
        self.started_at: float | None = None
        self._stop_jobs = stop_jobs
        self._progress = {job.id: (0, job.sampling.steps) for job in jobs}
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
    def unfinished(self) -> tuple[Job, ...]:
        """Jobs that have not ended, in order."""
        return tuple(job for job in self.jobs if job.id not in self._ends)

    async def results(self) -> tuple[Finished | Cancelled, ...]:
        """Every job's end, in the jobs' order.

        Raises:
            JobError: one of the jobs failed; the first failure's class and sentence.
            CheckpointError: a job's checkpoint cannot be used.
            RequestError: a job asks for what only the loaded checkpoint shows to be impossible.
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
        self._stop_jobs(tuple(jobs), mode)

    def observe(self, event: JobEvent) -> None:
        """Take in one of the jobs' events; a second terminal event of a job is ignored."""
        if event.job in self._ends:
            return
        match event:
            case Started():
                self._started.add(event.job)
                self.started_at = self.started_at or time.monotonic()
            case Progress():
                self._progress[event.job] = (event.step, event.steps)
            case _:
                _, total = self._progress[event.job]
                self._progress[event.job] = (total, total)
                self._ends[event.job] = event
                if len(self._ends) == len(self.jobs):
                    self._done.set()

    def restart(self, job_id: str) -> None:
        """The job's engine died: it begins again from its first step."""
        self._started.discard(job_id)
        _, total = self._progress[job_id]
        self._progress[job_id] = (0, total)


def error_of(event: Failed) -> JobError | CheckpointError | RequestError:
    """The failure as an exception of our tree. Of a field at fault only the sentence is known."""
    kind = getattr(errors, event.error, None)
    if isinstance(kind, type) and issubclass(kind, RequestError):
        return RequestError(event.message)
    if isinstance(kind, type) and issubclass(kind, JobError | CheckpointError):
        return kind(event.message)
    return EngineFailure(event.message)
