"""Accepting requests, and waiting for their answers as long as somebody does."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from fastapi import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.types import Receive

from sdserver.api.admission import KEY_HEADER
from sdserver.api.deadline import deadline_of
from sdserver.api.deadline import left as seconds_left
from sdserver.api.entry import Entry, EntryKind, Result
from sdserver.api.middleware import TASK_SCOPE
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.services import Services
from sdserver.api.work import Work

OPENED_SCOPE = "sdserver.opened"
"""The scope's key that says that its request began the work, and joined none."""
TIME_IS_UP = "The request took longer than it may: --request-timeout or X-Request-Timeout."
SMALL_BYTES = 2 * 10**6
"""An answer that takes less is written on the event loop, in well under a millisecond."""

Task = asyncio.Task[Result]
Making = Callable[[Work], Coroutine[Any, Any, Result]]


def kind_of(request: Request) -> EntryKind:
    """What a request for pictures is called on the board."""
    return "img2img" if isinstance(request, Img2ImgRequest) else "txt2img"


def begin(services: Services, request: Request, http: HttpRequest, *, is_kept: bool = False) -> Entry:
    """Accept a request for pictures; its work begins at once.

    Args:
        services: what it is worked with.
        request: the body.
        http: where it came in; its body was read.
        is_kept: whether the result is kept for those who ask later.

    Raises:
        InvalidField: `force_task_id` or the idempotency key is no use.
        TaskExists: an unfinished request has that id.
    """
    return begin_work(
        services, kind_of(request), request.force_task_id, http, lambda work: work.answer(request), is_kept
    )


def begin_work(
    services: Services,
    kind: EntryKind,
    wanted_id: str | None,
    http: HttpRequest,
    make: Making,
    is_kept: bool = False,
    content: bytes | None = None,
) -> Entry:
    """Accept any work; a request that repeats an idempotency key joins the first of that key.

    Args:
        services: what it is worked with.
        kind: what it is called on the board.
        wanted_id: what its client wants it to be known by, None or empty for a random id.
        http: where it came in.
        make: does the work; called at once, and only for a new entry.
        is_kept: whether the result is kept for those who ask later.
        content: what a repeated request must have in common with the first; None for the body.

    Raises:
        InvalidField: the id, the idempotency key or the deadline is no use.
        TaskExists: an unfinished request has that id.
        QueueFull: too many requests are unfinished, or hold too much memory.
        NotReady: the server is about to end.
    """
    board, room = services.board, services.room
    _check_time(services, http)
    key = http.headers.get(KEY_HEADER, "")
    fingerprint = _fingerprint(http, content) if key else ""
    entry = board.replayed(key, fingerprint) if key else None
    if entry is None:
        services.config.door.enter()
        room.check()
        size = len(getattr(http, "_body", b""))
        now = datetime.now().astimezone()
        entry = board.open(kind, wanted_id, now)
        entry.is_kept = is_kept or bool(key)
        if key:
            board.remember(key, fingerprint, entry)
        # Its bytes are held as they came by who reads them, and as what they say by the work.
        entry.held = 2 * size
        room.take(size, size)
        task = board.run(entry, make(Work(services, entry, now)))
        task.add_done_callback(lambda _: room.give(size))
        http.scope[OPENED_SCOPE] = True
    http.scope[TASK_SCOPE] = entry
    return entry


def _check_time(services: Services, http: HttpRequest) -> None:
    """See that there is time left for the request, whose body may have come slowly."""
    if seconds_left(deadline_of(http.scope, services.config.request_timeout)) == 0:
        raise HTTPException(504, TIME_IS_UP)


def _fingerprint(http: HttpRequest, content: bytes | None) -> str:
    body = getattr(http, "_body", b"") if content is None else content
    return hashlib.sha256(http.url.path.encode() + b"\0" + body).hexdigest()


async def result_or_left(services: Services, entry: Entry, http: HttpRequest) -> Result | None:
    """The entry's result, or None if its client left and it was dropped.

    Args:
        services: say how long a request may take.
        entry: just begun, or joined.
        http: the request; its body was read.

    Raises:
        InvalidField: the client's deadline makes no sense.
        HTTPException: 504, time is up; 410, somebody cancelled it.
        SdServerError: its work failed.
    """
    task = entry.outcome
    if task is None:
        result = services.board.result_of(entry)
        if result is None:
            raise HTTPException(410, "The request's result is not kept any more.")
        return result
    deadline = deadline_of(http.scope, services.config.request_timeout)
    left: asyncio.Future[None] = asyncio.ensure_future(_left(http.receive))
    either: tuple[asyncio.Future[Any], ...] = (task, left)
    try:
        async with asyncio.timeout(seconds_left(deadline)):
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done() or services.config.finish_on_disconnect:
                await asyncio.wait({task})
    except TimeoutError:
        # Who began it may wait longer than who joined.
        if OPENED_SCOPE in http.scope:
            entry.stop("drop")
        raise HTTPException(504, TIME_IS_UP) from None
    except asyncio.CancelledError:
        _give_up(entry)
        raise
    finally:
        left.cancel()
    if not task.done():
        _give_up(entry)
        return None
    if task.cancelled():
        raise HTTPException(410, "The request was cancelled.")
    return task.result()


async def body_of(services: Services, result: Result) -> bytes:
    """A result's JSON; a large one is written on a worker thread."""
    return result.body() if result.size < SMALL_BYTES else await services.in_thread(result.body)


def _give_up(entry: Entry) -> None:
    """One who waited for the entry does no more. It goes on only if its result is kept for later."""
    if not entry.is_kept:
        entry.stop("drop")


async def _left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
