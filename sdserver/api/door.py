"""Whether the service takes new work: what draining changes, and what requests and probes see of it."""

import time
from collections.abc import Callable
from typing import Final, Protocol

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdserver.api.entry import Entry
from sdserver.errors import NotReady

RETRY_SECONDS: Final = 5


class Requests(Protocol):
    """The requests that were accepted; `board.Board` is one."""

    @property
    def changes(self) -> int: ...
    def find(self, entry_id: str) -> Entry | None: ...
    def active(self) -> tuple[Entry, ...]: ...
    async def changed(self, since: int) -> int: ...


class Door:
    """Open; or seen to be closing, while all are still let in; or shut. Lives on the event loop.

    Args:
        clock: monotonic seconds.

    Attributes:
        is_leaving: whether balancers are told to send requests elsewhere.
        is_shut: whether new work is refused.
        probed_at: when somebody last asked whether this port takes requests, None for never.
        requests: what is inside; None until the API is made.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_leaving = self.is_shut = False
        self.probed_at: float | None = None
        self.requests: Requests | None = None
        self._clock = clock

    def leave(self) -> None:
        """Have probes told that no new requests should come; those that do are taken."""
        self.is_leaving = True

    def shut(self) -> None:
        """Refuse new work."""
        self.is_leaving = self.is_shut = True

    def open(self) -> None:
        """Take new work again."""
        self.is_leaving = self.is_shut = False

    def probed(self) -> bool:
        """Somebody asks whether requests may be sent; whether they may."""
        self.probed_at = self._clock()
        return not self.is_leaving

    def enter(self) -> None:
        """New work comes.

        Raises:
            NotReady: it is refused.
        """
        if self.is_shut:
            raise NotReady("The server is about to end; send the request to another node.", RETRY_SECONDS)

    def active(self) -> tuple[Entry, ...]:
        """What was accepted and has not ended."""
        return self.requests.active() if self.requests else ()

    def find(self, entry_id: str) -> Entry | None:
        """An accepted request by its id."""
        return self.requests.find(entry_id) if self.requests else None

    async def empty(self) -> None:
        """Wait until all that was accepted has ended."""
        while self.requests is not None and self.requests.active():
            await self.requests.changed(self.requests.changes)


class HangUp:
    """Has connections closed after their answer while the door is shut: clients shall go elsewhere."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._door.is_shut:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_last if scope["type"] == "http" else send)
