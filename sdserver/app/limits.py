"""What connections may cost: how many there are, and how slowly they may send and read.

Uvicorn waits for ever: for the end of headers, for the rest of a body, for a client to take its answer.
"""

import asyncio
import functools
import ipaddress
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdserver.app.handshakes import Handshakes
from sdserver.app.refusals import Refusals

LOCAL_PROXIES: Final = ("127.0.0.1", "::1")
EVERYBODY: Final = "*"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the connections of one port may cost.

    Attributes:
        most: connections at once.
        most_per_address: of them from one address that is no proxy, 0 for any number.
        head_seconds: for a TLS handshake, of which there may be `most`, too; then from a connection's
            beginning, or a further request's first byte, to the headers' end.
        window: seconds within which a body, or an answer's reader, must come `least_rate` times as many
            bytes further.
        least_rate: bytes per second.
        grace: seconds after which one that is slower than that makes room for others, where all is full.
        linger: seconds in which the rest of a body is thrown away whose request was answered before.
    """

    most: int = 512
    most_per_address: int = 64
    head_seconds: float = 10.0
    window: float = 30.0
    least_rate: int = 1000
    grace: float = 2.0
    linger: float = 10.0

    @property
    def pause(self) -> float:
        """Seconds between two looks at all connections."""
        return min(self.head_seconds, self.window, self.linger) / 10


def proxies(names: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address is that of a proxy, of which many clients' connections come.

    Args:
        names: addresses and networks; `*` for all.
    """
    listed = tuple(names)
    networks = [ipaddress.ip_network(name, strict=False) for name in listed if name != EVERYBODY]

    def is_proxy(address: str) -> bool:
        if EVERYBODY in listed:
            return True
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(found, "ipv4_mapped", None)
        return any((mapped or found) in network for network in networks)

    return is_proxy


class Wall:
    """Watches the connections of one port. Lives on the event loop, and sleeps while there are none.

    Args:
        limits: what is allowed.
        is_proxy: whose addresses may have any number of connections.
        refusals: told of each connection that is ended with an answer.
    """

    def __init__(
        self, limits: ConnectionLimits, is_proxy: Callable[[str], bool], refusals: Refusals | None = None
    ) -> None:
        self.limits = limits
        self.refusals = refusals or Refusals()
        self._is_proxy = is_proxy
        self._inside: dict[GuardedProtocol, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.handshakes = Handshakes(limits.most, limits.head_seconds)

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, connection: "GuardedProtocol", address: str) -> str:
        """A connection was made; why it must go, empty if it may stay.

        Where there are too many, the one that has waited longest for its client's next request makes
        room, else the one that sends a body, or reads an answer, slowest of all and too slowly: those who
        send slowly, or nothing, keep out nobody.
        """
        limits = self.limits
        if limits.most_per_address and not self._is_proxy(address):
            own = [one for one, place in self._inside.items() if place == address]
            if len(own) >= limits.most_per_address and not self._make_room(own):
                return (
                    f"There are {len(own)} connections from your address already: use fewer, or have the "
                    "operator raise --max-connections-per-address."
                )
        if len(self._inside) >= limits.most and not self._make_room(self._inside):
            return f"There are {len(self._inside)} connections already; try again later."
        self._inside[connection] = address
        if self._timer is None:
            self._watch(connection.loop)
        return ""

    def leave(self, connection: "GuardedProtocol") -> None:
        """A connection is gone."""
        self._inside.pop(connection, None)

    def _make_room(self, among: Iterable["GuardedProtocol"]) -> bool:
        """Whether one of them could go. What has come of a new one may not be read yet: so it stays while
        there is another.
        """
        inside = tuple(among)
        idle = [(since, one) for one in inside if (since := one.waits_since) is not None]
        since, longest = min(idle, key=_first, default=(math.inf, None))
        paces = [(pace, one) for one in inside if (pace := one.pace()) is not None]
        pace, slowest = min(paces, key=_first, default=(math.inf, None))
        is_new = longest is None or longest.loop.time() - since < self.limits.grace
        if slowest is not None and pace < self.limits.least_rate and is_new:
            self.leave(slowest)
            slowest.make_room()
            return True
        if longest is None:
            return False
        self.leave(longest)
        longest.transport.abort()
        return True

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self.limits.pause, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for connection in tuple(self._inside):
            connection.look(now)
        if self._inside:
            self._watch(loop)


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, within a wall."""

    def __init__(self, wall: Wall, **parts: Any) -> None:
        super().__init__(**parts)
        self._wall = wall
        self._limits = wall.limits
        self._is_refused = False
        self._received = 0
        self._head_since: float | None = None
        self._idle_since = self._answered_at = 0.0
        self._body_mark: tuple[float, int] | None = None
        self._unread_mark: tuple[float, int] | None = None

    @property
    def waits_since(self) -> float | None:
        """When it began to wait for headers; None while it works on a request."""
        is_free = self.cycle is None or self.cycle.response_complete
        return self._idle_since if is_free and self.conn.their_state is h11.IDLE else None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it."""
        super().connection_made(transport)
        self._head_since = self._idle_since = self.loop.time()
        self._wall.handshakes.ended(transport.get_extra_info("socket").fileno())
        reason = self._wall.enter(self, self.client[0] if self.client else "")
        if reason:
            self._is_refused = True
            self._end(503, "TooManyConnections", reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wall.leave(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        if self._is_refused or self.transport.is_closing():
            return
        self._received += len(data)
        if self._head_since is None and self.conn.their_state is h11.IDLE:
            self._head_since = self.loop.time()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None
        elif self._head_since is None and not self.transport.is_closing():
            self._body_ended_late()

    def _body_ended_late(self) -> None:
        """The rest of a body came after its answer: only now the client is waited for."""
        self._idle_since = self.loop.time()
        if self.conn.trailing_data[0]:
            self._head_since = self._idle_since
        elif self.timeout_keep_alive_task is None:
            # Uvicorn has done so when it answered, and took it back when the rest came.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """An answer was written; the next request may come, once the body of this one is over."""
        self._idle_since = self._answered_at = self.loop.time()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            # The connection is no idle one; `look` sees to its end.
            self._unset_keepalive_if_required()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP: say so where an answer has not begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._end(400, "BadRequest", msg)
        else:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """That clients ask for WebSockets, which are not served, is no news."""

    def look(self, now: float) -> None:
        """End the connection if its client is too slow."""
        if self._reads_too_slowly(now):
            self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._head_since is not None and now - self._head_since > self._limits.head_seconds:
            seconds = f"{self._limits.head_seconds:g}"
            self._end(408, "RequestTimeout", f"The headers did not end within {seconds} seconds.")
        elif self._is_left_over(now):
            self.transport.close()
        elif self._sends_too_slowly(now):
            self._end_slow_body()

    def pace(self) -> float | None:
        """Bytes per second that its client reads or sends; None where neither is waited for, or not for
        long enough to tell.
        """
        now, unread = self.loop.time(), self.transport.get_write_buffer_size()
        if unread and self._unread_mark is not None:
            began, done = self._unread_mark[0], self._unread_mark[1] - unread
        elif self._is_sending and self._body_mark is not None:
            began, done = self._body_mark[0], self._received - self._body_mark[1]
        else:
            return None
        return done / (now - began) if now - began >= self._limits.grace else None

    def make_room(self) -> None:
        """Go, for another connection to come."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._end_slow_body()

    @property
    def _is_sending(self) -> bool:
        """Whether its client is to send more of a body."""
        is_sending = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        return is_sending and not self.cycle.waiting_for_100_continue

    def _sends_too_slowly(self, now: float) -> bool:
        if not self._is_sending:
            self._body_mark = None
            return False
        began, count = self._body_mark or (now, self._received)
        if now - began < self._limits.window:
            self._body_mark = (began, count)
            return False
        self._body_mark = (now, self._received)
        return self._received - count < self._limits.window * self._limits.least_rate

    def _reads_too_slowly(self, now: float) -> bool:
        unread = self.transport.get_write_buffer_size()
        began, count = self._unread_mark or (now, unread)
        if unread == 0 or unread > count:  # more was written since
            self._unread_mark = (now, unread) if unread else None
            return False
        if now - began < self._limits.window:
            self._unread_mark = (began, count)
            return False
        self._unread_mark = (now, unread)
        return count - unread < self._limits.window * self._limits.least_rate

    def _is_left_over(self, now: float) -> bool:
        """Whether a body goes on for long after its request was answered."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        is_sending = self.conn.their_state is h11.SEND_BODY
        return is_answered and is_sending and now - self._answered_at > self._limits.linger

    def _end_slow_body(self) -> None:
        least = f"{self._limits.least_rate:,} bytes per second"
        self._end(408, "RequestTimeout", f"The body came too slowly: send at least {least}.")

    def _end(self, status: int, error: str, detail: str) -> None:
        """Close the connection, with AUTOMATIC1111's error body if no answer has begun and one is wanted."""
        is_answering = self.cycle is not None and self.cycle.response_started
        if (not is_answering or self.cycle.response_complete) and (self._received or status == 503):
            self.transport.write(_answer(status, error, detail))
            if self.cycle is None or self.cycle.response_complete:  # else the application tells how it ended
                self._wall.refusals.of_connection(status, detail, self.client[0] if self.client else "")
        self.transport.close()


def _first(pair: "tuple[float, GuardedProtocol]") -> float:
    return pair[0]


def _answer(status: int, error: str, detail: str) -> bytes:
    phrase = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}[status]
    body = json.dumps({"error": error, "detail": detail, "body": "", "errors": ""}).encode()
    retry = "Retry-After: 5\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\n{retry}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def guarded(wall: Wall) -> Any:
    """What uvicorn is given as the class of its protocol."""
    return functools.partial(GuardedProtocol, wall)
