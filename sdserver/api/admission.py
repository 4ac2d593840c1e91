"""Refuses work that there is no room for before its body is read, let alone unpacked."""

import asyncio
import contextlib
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdserver.api.board import Board
from sdserver.api.door import Door
from sdserver.api.errors import response_of
from sdserver.api.openai.route import error_answer
from sdserver.api.paths import route_path
from sdserver.api.room import Room
from sdserver.errors import QueueFull, Refused

KEY_HEADER: Final = "Idempotency-Key"
ROUTE_SCOPE: Final = "sdserver.route"
"""The scope's key of the path by which a request is counted that no route was found for."""
REFUSED: Final = "refused"
"""That path of requests that are refused before they are routed; metrics have the word, too."""
OPENAI_ROUTES: Final = frozenset({"/v1/images/generations", "/v1/images/edits", "/v1/images/variations"})
WORKING_ROUTES: Final = OPENAI_ROUTES | {
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
    "/sdapi/v1/extra-single-image",
    "/sdapi/v1/extra-batch-images",
    "/sdapi/v1/interrogate",
    "/v1/jobs",
}
"""Where a POST asks for work that waits."""
DRAIN_SECONDS: Final = 5.0
"""For the rest of a refused body to come: a client that still sends it may not look at the answer before."""


def mark_refused(scope: Scope) -> None:
    """Have a request that is refused before it is routed counted by its route, if that is one for work."""
    path = route_path(scope)
    scope[ROUTE_SCOPE] = path if path in WORKING_ROUTES else REFUSED


class Admit:
    """ASGI middleware: 503 where no work is taken; counts what the bodies take that are let in.

    Args:
        room: how much may wait.
        door: whether new work is taken at all.
        board: knows requests that were sent before; one that is repeated takes no room.
    """

    def __init__(self, app: ASGIApp, room: Room, door: Door, board: Board) -> None:
        self._app = app
        self._room = room
        self._door = door
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        if path in WORKING_ROUTES and not self._is_repeated(scope):
            try:
                self._door.enter()
                self._room.check()
            except Refused as error:
                scope[ROUTE_SCOPE] = path
                await answer_unread(_answer(error, path), scope, receive, send)
                return
        await self._counted(scope, receive, send)

    def _is_repeated(self, scope: Scope) -> bool:
        key = Headers(scope=scope).get(KEY_HEADER, "")
        return bool(key) and self._board.knows(key)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        held, refusal = 0, None

        async def receive_counted() -> Message:
            nonlocal held, refusal
            message = await receive()
            count = len(message.get("body", b""))
            try:
                self._room.take(count, held)
            except QueueFull as error:
                # The app wraps what is raised here into an answer of its own, which is dropped below.
                refusal = error
                raise
            held += count
            return message

        async def send_counted(message: Message) -> None:
            if refusal is None:
                await send(message)

        try:
            await self._app(scope, receive_counted, send_counted)
        except QueueFull:
            pass
        finally:
            self._room.give(held)
        if refusal is not None:
            await answer_unread(_answer(refusal, route_path(scope)), scope, receive, send)


def _answer(error: Refused, path: str) -> Response:
    return error_answer(error) if path in OPENAI_ROUTES else response_of(error)


async def answer_unread(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, then throw away what still comes of the body for a while, and close the connection.

    Args:
        response: whole, with its length.
        scope: the request's.
        receive: its body, read in part or not at all.
        send: where the answer goes.
    """
    response.headers["Connection"] = "close"
    head = {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(head)
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    # Who asked whether to send the body at all has the answer, and sends none.
    if "expect" not in Headers(scope=scope):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while (await receive()).get("more_body"):
                    pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
