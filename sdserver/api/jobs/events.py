"""The life of a job, or of all, as server-sent events.

Nothing is queued for a reader: whenever one is ready for more, it is sent what is so then.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sdserver.api.answer.answer import Encoded
from sdserver.api.entry import Entry
from sdserver.api.jobs.view import job_of
from sdserver.api.previews import latest_preview
from sdserver.api.services import Services
from sdserver.images.codec import to_base64

MEDIA_TYPE: Final = "text/event-stream"
SHOWN: Final = ("queue_position", "progress", "images", "images_done")
"""What is worth an event when it changes."""

HEARTBEAT: Final = b": still here\n\n"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a reader is sent something.

    Attributes:
        heartbeat: seconds without an event after which a comment is sent, so that proxies keep the
            connection and readers who left are noticed.
        rest: seconds between two looks at the job.
    """

    heartbeat: float = 15.0
    rest: float = 0.1


class _Reader:
    """What somebody was told of a job so far."""

    def __init__(self, services: Services, entry: Entry) -> None:
        self._services = services
        self._entry = entry
        self._state = ""
        self._shown: tuple[object, ...] = ()
        self._preview_step = 0

    async def news(self, *, has_previews: bool) -> AsyncIterator[bytes]:
        """The events that tell what is new; `end` is the only one of a job that is over."""
        entry = self._entry
        changes, job = entry.changes, job_of(self._services, entry)
        if entry.is_over:
            yield _event("end", changes, job)
            return
        if job["state"] != self._state:
            self._state = job["state"]
            yield _event("state", changes, job)
        seen = tuple(job[name] for name in SHOWN)
        if seen != self._shown:
            self._shown = seen
            yield _event("progress", changes, {name: job[name] for name in ("id", "eta_seconds", *SHOWN)})
        if has_previews:
            preview = await latest_preview(self._services, entry)
            if preview is not None and entry.preview_step != self._preview_step:
                self._preview_step = entry.preview_step
                yield _event("preview", changes, _told(entry, preview))


async def events_of(
    services: Services, entry: Entry, pace: Pace, *, has_previews: bool
) -> AsyncIterator[bytes]:
    """`state` at first and whenever it changes, `progress`, `preview`, and one `end`, which is the last.

    Args:
        services: where the job is known.
        entry: the job.
        pace: how often something is sent.
        has_previews: whether previews are sent; they are made from then on.
    """
    reader = _Reader(services, entry)
    while True:
        changes, is_last = entry.changes, entry.is_over
        async for event in reader.news(has_previews=has_previews):
            yield event
        if is_last:
            return
        while not await _within(pace.heartbeat, entry.changed(changes)):
            yield HEARTBEAT
        await _rest(entry, pace.rest)


async def events_of_all(services: Services, pace: Pace, *, has_previews: bool) -> AsyncIterator[bytes]:
    """The same of every job: of the unfinished ones at first, then of all that come.

    It ends where the server is about to end and the last job did.

    Args:
        services: where the jobs are known.
        pace: how often something is sent.
        has_previews: whether previews are sent, of those that run.
    """
    board = services.board
    readers = {entry: _Reader(services, entry) for entry in board.active()}
    newest = board.opened
    while True:
        changes = board.changes
        newest, newcomers = board.opened, board.newest(board.opened - newest)
        readers |= {entry: _Reader(services, entry) for entry in newcomers}
        for entry, reader in list(readers.items()):
            is_last = entry.is_over
            async for event in reader.news(has_previews=has_previews and entry.state == "running"):
                yield event
            if is_last:
                del readers[entry]
        if board.is_closed and not board.active():
            return
        while not await _within(pace.heartbeat, board.changed(changes)):
            yield HEARTBEAT
        await asyncio.sleep(pace.rest)


def _told(entry: Entry, preview: Encoded) -> dict[str, Any]:
    image = to_base64(preview.data)
    return {"id": entry.id, "step": entry.preview_step, "media_type": preview.media_type, "image": image}


async def _within(seconds: float, change: Awaitable[int]) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await change
    except TimeoutError:
        return False
    return True


async def _rest(entry: Entry, seconds: float) -> None:
    """Let changes come together; the end need not wait."""
    if not entry.is_over:
        try:
            async with asyncio.timeout(seconds):
                await entry.over()
        except TimeoutError:
            pass


def _event(name: str, number: int, data: dict[str, Any]) -> bytes:
    return b"event: %s\nid: %d\ndata: %s\n\n" % (name.encode(), number, orjson.dumps(data))
