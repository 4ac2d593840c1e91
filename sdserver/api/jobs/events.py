"""A job's life as server-sent events.

Nothing is queued for a reader: whenever one is ready for more, it is sent what is so then.
"""

import asyncio
from collections.abc import AsyncIterator
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
    state, shown, preview_step = "", (), 0
    while True:
        changes = entry.changes
        job = job_of(services, entry)
        if entry.is_over:
            yield _event("end", changes, job)
            return
        if job["state"] != state:
            state = job["state"]
            yield _event("state", changes, job)
        seen = tuple(job[name] for name in SHOWN)
        if seen != shown:
            shown = seen
            yield _event("progress", changes, {name: job[name] for name in ("id", "eta_seconds", *SHOWN)})
        if has_previews:
            preview = await latest_preview(services, entry)
            if preview is not None and entry.preview_step != preview_step:
                preview_step = entry.preview_step
                yield _event("preview", changes, _told(entry, preview))
        while not await _changed(entry, changes, pace.heartbeat):
            yield HEARTBEAT
        await _rest(entry, pace.rest)


def _told(entry: Entry, preview: Encoded) -> dict[str, Any]:
    image = to_base64(preview.data)
    return {"id": entry.id, "step": entry.preview_step, "media_type": preview.media_type, "image": image}


async def _changed(entry: Entry, since: int, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await entry.changed(since)
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
