"""One request that was accepted, from its arrival to its answer and as long as it is remembered."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from sdserver.api.answer.answer import Encoded
from sdserver.api.engine import Engine, Ticket
from sdserver.api.failure import Failure
from sdserver.engine.messages import PreviewMethod, StopMode
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Job, WithoutCheckpoint

EntryKind = Literal["txt2img", "img2img", "extras", "interrogate"]
EntryState = Literal["queued", "running", "completed", "failed", "cancelled"]
ENDS: Final = frozenset({"completed", "failed", "cancelled"})


class Result(Protocol):
    """What a finished request is answered with."""

    @property
    def pictures(self) -> tuple[Encoded, ...]:
        """In the order in which the body has them."""
        ...

    @property
    def size(self) -> int:
        """Bytes that keeping it takes, about."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """What is told beside the body."""
        ...

    def body(self) -> bytes:
        """A1111's JSON. Takes time: call it in a worker thread."""
        ...


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a request is.

    Attributes:
        images: jobs in all, as far as known.
        done: jobs that ended.
        steps: evaluations of the denoiser in all, as far as known; parts to come count as those before.
        steps_done: those that were done.
    """

    images: int
    done: int
    steps: int
    steps_done: int


NOTHING: Final = Tally(0, 0, 0, 0)
USUAL_STEPS: Final = 20
"""Of an image, while none of the request's is known."""


class Entry:
    """Follows a request. Lives on the event loop.

    Args:
        entry_id: what clients know it by.
        request_id: what its jobs are named after; unique whatever clients choose.
        kind: of the request.
        timestamp: when it came, as AUTOMATIC1111's `job_timestamp`.
        clock: seconds since 1970.
        on_change: told whenever something happened.

    Attributes:
        outcome: of the work; None before it runs and when it is over.
        failure: why it failed.
        is_kept: whether its result is kept for those who ask later.
        held: bytes that its body takes while it is unfinished.
        key: its idempotency key, empty if it has none.
        is_accepted: whether the engine took its first part.
        preview_file: the preview that was shown last, with what it was made from.
        stopped: how somebody ended it early, None if nobody did.
        expected: images in all where more parts than the accepted ones are to come, 0 where not.
        created: seconds since 1970.
        textinfo: what it works on, in words; None where progress says it all.
    """

    def __init__(
        self,
        entry_id: str,
        request_id: str,
        kind: EntryKind,
        timestamp: str,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = entry_id
        self.request_id = request_id
        self.kind: EntryKind = kind
        self.timestamp = timestamp
        self.created = clock()
        self.began: float | None = None
        self.ended: float | None = None
        self.outcome: asyncio.Future[Result] | None = None
        self.stopped: StopMode | None = None
        self.expected = 0
        self.textinfo: str | None = None
        self.failure: Failure | None = None
        self.is_kept = False
        self.held = 0
        self.key = ""
        self.is_accepted = False
        self.preview_file: tuple[tuple[object, ...], Encoded] | None = None
        self._clock = clock
        self._on_change = on_change
        self._state: EntryState = "queued"
        self._parts: list[Ticket] = []
        self._parts_begun = 0
        self._tally = NOTHING
        self._past = {False: NOTHING, True: NOTHING}
        self._share = 0.0
        self._past_previews = 0
        self._changes = 0
        self._changed = asyncio.Event()
        self._watch: tuple[int, PreviewMethod] | None = None

    @property
    def state(self) -> EntryState:
        """Queued until its first job begins."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._state in ENDS

    @property
    def tally(self) -> Tally:
        """How far it is. Images to come count as many steps as those made before, on average."""
        if self.is_over:
            return self._tally
        made, enlarged = (self._counted(is_enlarging) for is_enlarging in (False, True))
        images = max(self.expected, made.images)
        each = made.steps / made.images if made.images else USUAL_STEPS
        return Tally(
            images + enlarged.images,
            made.done + enlarged.done,
            round(each * images) + enlarged.steps,
            made.steps_done + enlarged.steps_done,
        )

    @property
    def share(self) -> float:
        """How much is done, 0 to 1. It never falls: more work than was known has to be made up for first."""
        tally = self.tally
        if tally.steps:
            self._share = max(self._share, min(1.0, tally.steps_done / tally.steps))
        return self._share

    @property
    def previews(self) -> tuple[Picture, ...]:
        """The latest of each image that is being made."""
        return tuple(picture for part in self._parts for picture in part.previews)

    @property
    def preview_step(self) -> int:
        """Counts the previews; 0 before the first."""
        return self._past_previews + sum(part.preview_step for part in self._parts)

    @property
    def changes(self) -> int:
        """Counts what happened; see `changed`."""
        return self._changes

    async def changed(self, since: int) -> int:
        """Wait until something happened after `since`; the new count."""
        while self._changes == since:
            event = self._changed
            await event.wait()
        return self._changes

    def submit(self, engine: Engine, jobs: Sequence[Job]) -> Ticket:
        """Give the engine the next part's jobs.

        Raises:
            Refused: the first part was not accepted.
        """
        is_first = self._parts_begun == 0
        part_id = self.request_id if is_first else f"{self.request_id}.{self._parts_begun}"
        ticket = engine.submit(part_id, jobs, on_event=lambda _: self._observe(), continues=not is_first)
        self._let_go_of_done_parts()
        self._parts.append(ticket)
        self._parts_begun += 1
        self.is_accepted = True
        if self._watch is not None:
            ticket.watch(*self._watch)
        if self.stopped == "interrupt":
            ticket.stop("interrupt")
        self._observe()
        return ticket

    def watch(self, every: int, method: PreviewMethod) -> None:
        """Have previews made from now on."""
        if self._watch == (every, method) or self.is_over:
            return
        self._watch = (every, method)
        for part in self._parts:
            part.watch(every, method)

    def stop(self, mode: StopMode) -> None:
        """End it early. `skip` ends only the images on their way, the others also parts to come."""
        if self.is_over or self.stopped == "drop":
            return
        if mode != "skip" or self.stopped is None:
            self.stopped = mode
        for part in self._parts:
            if part.state != "done":
                part.stop(mode)
        if mode == "drop" and self.outcome is not None:
            self.outcome.cancel()
        self._touch()

    def end(self, state: EntryState) -> None:
        """It is over. Pictures that the engine was given or gave are let go."""
        self._tally = self.tally
        self._parts.clear()
        self.outcome = self.preview_file = None
        self._state = state
        self.ended = self._clock()
        self._touch()

    @property
    def waited(self) -> float:
        """Seconds from its arrival until its first job began, or until now or its end."""
        until = self.began or self.ended
        return max(0.0, (self._clock() if until is None else until) - self.created)

    @property
    def elapsed(self) -> float:
        """Seconds since its first job began, until now or its end; 0 before."""
        if self.began is None:
            return 0.0
        return max(0.0, (self._clock() if self.ended is None else self.ended) - self.began)

    def place_changed(self) -> None:
        """Its place among those that wait is another."""
        self._touch()

    async def over(self) -> None:
        """Wait until it has ended."""
        while not self.is_over:
            await self.changed(self._changes)

    def _counted(self, is_enlarging: bool) -> Tally:
        parts = (part for part in self._parts if _enlarges(part) == is_enlarging)
        return _sum([self._past[is_enlarging], *map(_of, parts)])

    def _let_go_of_done_parts(self) -> None:
        """What they came to stays known, their pictures do not."""
        for part in [part for part in self._parts if part.state == "done"]:
            kind = _enlarges(part)
            self._past[kind] = _sum([self._past[kind], _of(part)])
            self._past_previews += part.preview_step
            self._parts.remove(part)

    def begin(self) -> None:
        """Its work begins; where the engine does it, its parts tell that."""
        self.is_accepted = True
        if self._state == "queued":
            self._state = "running"
            self.began = self._clock()
        self._touch()

    def _observe(self) -> None:
        if any(part.state != "queued" for part in self._parts):
            self.begin()
        else:
            self._touch()

    def _touch(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()


def _of(part: Ticket) -> Tally:
    return Tally(len(part.jobs), part.images_done, part.steps_total, part.steps_done)


def _sum(tallies: Sequence[Tally]) -> Tally:
    return Tally(
        sum(each.images for each in tallies),
        sum(each.done for each in tallies),
        sum(each.steps for each in tallies),
        sum(each.steps_done for each in tallies),
    )


def _enlarges(part: Ticket) -> bool:
    """Whether it makes no images of its own: its steps say nothing about those of images."""
    return all(isinstance(job, WithoutCheckpoint) for job in part.jobs)
