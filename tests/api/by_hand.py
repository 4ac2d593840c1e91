"""An engine that works when a test tells it to, behind a running server."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from patience import PATIENCE

from sdserver.engine.messages import Watch
from sdserver.engine.ticket import Ticket
from sdserver.errors import QueueFull
from sdserver.jobs.events import Failed, Finished, JobEvent, Picture, Previewed, Progress, Started
from sdserver.jobs.job import Job
from tests.api.conftest import FakeEngine, picture_of


class HandEngine(FakeEngine):
    """Takes jobs and does nothing with them of its own. Tests name requests by their order, from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.watches: list[Watch] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(
        self,
        request_id: str,
        jobs: Sequence[Job],
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        continues: bool = False,
    ) -> Ticket:
        if self.full and not continues:
            raise QueueFull("64 requests wait already; try again in 7 s.", 7)
        self._loop = asyncio.get_running_loop()
        ticket = Ticket(request_id, jobs, self._stop, self.watches.append, on_event)
        self.jobs += jobs
        self._tickets.append(ticket)
        self.submitted.set()
        return ticket

    def wait_for(self, count: int) -> None:
        """Wait until the engine was given so many requests."""
        end = time.monotonic() + PATIENCE
        while len(self._tickets) < count:
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)

    def begin(self, request: int, job: int = 0) -> None:
        """The job begins."""
        self._tell(request, job, lambda job: Started(job.id))

    def step(self, request: int, step: int, steps: int, job: int = 0) -> None:
        """The job has done so many of its steps."""
        self._tell(request, job, lambda job: Progress(job.id, step, steps))

    def preview(self, request: int, step: int, picture: Picture, job: int = 0) -> None:
        """The job has a preview."""
        self._tell(request, job, lambda job: Previewed(job.id, step, picture))

    def finish(self, request: int, job: int = 0) -> None:
        """The job is done."""
        self._tell(request, job, lambda job: Finished(job.id, picture_of(job)))

    def fail(self, request: int, error: str, job: int = 0) -> None:
        """The job fails."""
        self._tell(request, job, lambda job: Failed(job.id, error, "The device is broken."))

    def _tell(self, request: int, job: int, event_of: Callable[[Job], JobEvent]) -> None:
        self.wait_for(request + 1)
        ticket = self._tickets[request]
        self.on_loop(lambda: ticket.observe(event_of(ticket.jobs[job])))

    def on_loop(self, act: Callable[[], None]) -> None:
        """Do something on the server's loop, once a request came, and wait until it is done."""
        assert self._loop is not None
        done: Future[None] = Future()

        def run() -> None:
            act()
            done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result(PATIENCE)
