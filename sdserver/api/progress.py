"""`/sdapi/v1/progress` and `/internal/progress` as views over the board."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from sdserver.api.board import Board
from sdserver.api.entry import Entry
from sdserver.api.options import Snapshot
from sdserver.api.schemas import ProgressResponse, ProgressState
from sdserver.engine.messages import PreviewMethod, StopMode

FIRST_SHARE = 0.01
"""AUTOMATIC1111 shows this as soon as a job exists: idle alone is zero."""

METHODS: Final[Mapping[str, PreviewMethod]] = {"Full": "full", "TAESD": "taesd"}
"""By the option `show_progress_type`; all others are the cheap one."""


class Progress:
    """Shows the oldest unfinished request, as AUTOMATIC1111 shows the running one.

    One image is one job here, so `job_count` is the number of the request's images and `job_no` how
    many are done; the steps are those of one image, averaged over the ones still on their way.

    Args:
        board: its entries are shown.
        clock: seconds since 1970.
    """

    def __init__(self, board: Board, clock: Callable[[], float] = time.time) -> None:
        self._board = board
        self._clock = clock

    def stop(self, mode: StopMode) -> None:
        """End the oldest running request early; nothing happens when none runs."""
        current = self._board.current
        if current is not None and current.state == "running":
            current.stop(mode)

    def view(self) -> ProgressResponse:
        """The state now, without the preview."""
        entry = self._board.current
        if entry is None:
            last = self._board.last
            return _response(
                0.0, 0.0, _state(last.stopped if last else None, last.timestamp if last else "0")
            )
        tally = entry.tally
        count = max(1, tally.images)
        done = min(tally.done, count - 1)
        steps = tally.steps // count
        state = _state(entry.stopped, entry.timestamp)
        state.job = _name(entry, done, count)
        state.job_count, state.job_no = count, done
        state.sampling_step = min(steps, max(0, tally.steps_done - done * steps) // (count - done))
        state.sampling_steps = steps
        progress, eta = self.share(entry)
        return _response(progress, eta, state, entry.textinfo)

    def share(self, entry: Entry) -> tuple[float, float]:
        """How much of an unfinished entry is done, above 0 to 1, and the seconds that the rest may take."""
        progress = min(1.0, FIRST_SHARE + entry.share)
        began = entry.created if entry.began is None else entry.began
        elapsed = max(0.0, self._clock() - began)
        return progress, elapsed / progress - elapsed


def watch(entry: Entry, options: Snapshot) -> None:
    """Have previews of an entry made, if the options allow it."""
    every = options.whole("show_progress_every_n_steps")
    if options.flag("live_previews_enable") and every > 0:
        entry.watch(every, METHODS.get(options.text("show_progress_type"), "cheap"))


def _name(entry: Entry, done: int, count: int) -> str:
    if entry.kind in ("extras", "interrogate"):
        return entry.kind
    return f"scripts_{entry.kind}" if count == 1 else f"Batch {done + 1} out of {count}"


def _state(stop: StopMode | None, timestamp: str) -> ProgressState:
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


def _response(
    progress: float, eta: float, state: ProgressState, textinfo: str | None = None
) -> ProgressResponse:
    return ProgressResponse(
        progress=progress, eta_relative=eta, state=state, current_image=None, textinfo=textinfo
    )
