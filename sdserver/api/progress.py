"""`/sdapi/v1/progress` as a view over the engine's tickets."""

import time
from collections.abc import Callable, Sequence

from sdserver.api.engine import Engine, Ticket
from sdserver.api.schemas import ProgressResponse, ProgressState
from sdserver.engine.messages import StopMode
from sdserver.jobs.job import Img2Img

FIRST_SHARE = 0.01
"""AUTOMATIC1111 shows this as soon as a job exists: idle alone is zero."""


class Progress:
    """Shows the oldest unfinished request, as AUTOMATIC1111 shows the running one.

    One image is one job here, so `job_count` is the number of the request's images and `job_no` how
    many are done; the steps are those of one image, averaged over the ones still on their way.

    Args:
        engine: its tickets are shown.
        clock: of the tickets' times.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._timestamps: dict[str, str] = {}
        self._stops: dict[str, StopMode] = {}
        self._last_timestamp = "0"
        self._last_stop: StopMode | None = None

    def begin(self, ticket: Ticket, timestamp: str) -> None:
        """A request was accepted."""
        self._timestamps[ticket.id] = timestamp

    def end(self, ticket: Ticket) -> None:
        """A request is over; the idle state goes on telling how the last one ended."""
        self._last_timestamp = self._timestamps.pop(ticket.id, self._last_timestamp)
        self._last_stop = self._stops.pop(ticket.id, None)

    def stop(self, mode: StopMode) -> None:
        """End the oldest running request early; nothing happens when none runs."""
        for ticket in self._engine.active():
            if ticket.state == "running":
                self._stops[ticket.id] = mode
                self._engine.stop_current(mode)
                return

    def was_stopped(self, ticket: Ticket) -> bool:
        """Whether somebody ended the request early."""
        return ticket.id in self._stops

    def view(self) -> ProgressResponse:
        """The state now."""
        ticket = _shown(self._engine.active())
        if ticket is None:
            return _response(0.0, 0.0, self._state(self._last_stop, self._last_timestamp))
        count = len(ticket.jobs)
        done = min(ticket.images_done, count - 1)
        steps = ticket.steps_total // count
        left = count - done
        step = min(steps, max(0, ticket.steps_done - done * steps) // left)
        share = ticket.steps_done / ticket.steps_total if ticket.steps_total else 0.0
        progress = min(1.0, FIRST_SHARE + share)
        began = ticket.created_at if ticket.started_at is None else ticket.started_at
        elapsed = max(0.0, self._clock() - began)
        timestamp = self._timestamps.get(ticket.id, self._last_timestamp)
        state = self._state(self._stops.get(ticket.id), timestamp)
        kind = "img2img" if isinstance(ticket.jobs[0], Img2Img) else "txt2img"
        state.job = f"scripts_{kind}" if count == 1 else f"Batch {done + 1} out of {count}"
        state.job_count, state.job_no = count, done
        state.sampling_step, state.sampling_steps = step, steps
        return _response(progress, elapsed / progress - elapsed, state)

    def _state(self, stop: StopMode | None, timestamp: str) -> ProgressState:
        return ProgressState(
            skipped=stop == "skip",
            interrupted=stop == "interrupt",
            stopping_generation=False,
            job="",
            job_count=0,
            job_timestamp=timestamp,
            job_no=0,
            sampling_step=0,
            sampling_steps=0,
        )


def _shown(tickets: Sequence[Ticket]) -> Ticket | None:
    """The oldest that runs, else the oldest that waits."""
    running = [ticket for ticket in tickets if ticket.state == "running"]
    return next(iter(running or tickets), None)


def _response(progress: float, eta: float, state: ProgressState) -> ProgressResponse:
    return ProgressResponse(
        progress=progress, eta_relative=eta, state=state, current_image=None, textinfo=None
    )
