"""Requests whose clients have left still cost: how many there may be."""

from starlette.types import ASGIApp, Receive, Scope, Send

from sdserver.app.refusals import Refusals
from sdserver.app.wellformed import refuse


class Unfinished:
    """ASGI middleware: 503 where as many requests are unfinished as there may be connections.

    A connection has one request at a time. So where there are that many, clients have left, and what they
    asked for is still being worked on, or waits for its turn.

    Args:
        most: unfinished requests at once.
        refusals: told of each that is refused.
    """

    def __init__(self, app: ASGIApp, most: int, refusals: Refusals) -> None:
        self._app = app
        self._most = most
        self._refusals = refusals
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._count >= self._most:
            detail = f"There are {self._count} unfinished requests already; try again later."
            self._refusals.of_request(scope, 503, detail)
            await refuse(send, 503, detail, retry_after=5)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1
