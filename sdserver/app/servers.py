"""The two HTTP ports, as tasks of one event loop."""

import asyncio
import contextlib
import math
import resource
import socket
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from email.utils import formatdate

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from sdserver.app.handshakes import Doorway
from sdserver.app.hosts import KnownHosts, known_hosts
from sdserver.app.limits import LOCAL_PROXIES, ConnectionLimits, Wall, guarded, proxies
from sdserver.app.refusals import OnRefused, Refusals
from sdserver.app.unfinished import Unfinished
from sdserver.app.wellformed import WellFormed
from sdserver.errors import SettingsError
from sdserver.settings.model import LOOPBACK_HOSTS, Settings

BACKLOG = 2048
OTHER_FILES = 256
"""That are open beside connections, amply."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence before a connection is probed, between two probes, and how many go unanswered."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Whom a port keeps out.

    Attributes:
        limits: of its connections.
        proxies: addresses and networks of those whose connections are many clients'.
        has_proxies: whether they are believed about whom they ask for.
        is_known_host: whether a `Host` header names this server; None where every name does.
        on_refused: told the status of what is refused before the application sees it.
    """

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    proxies: tuple[str, ...] = LOCAL_PROXIES
    has_proxies: bool = False
    is_known_host: Callable[[str], bool] | None = None
    on_refused: OnRefused = lambda _: None


def guards(settings: Settings, on_refused: OnRefused = lambda _: None) -> tuple[Guard, Guard]:
    """Of the API's port, and of the maintenance port."""
    limits = ConnectionLimits(settings.max_connections, settings.max_connections_per_address)
    is_open = not (settings.api_auth or settings.gradio_auth or settings.api_keys)

    def guard(host: str, has_proxies: bool, is_open: bool) -> Guard:
        is_own = host in LOOPBACK_HOSTS and is_open
        has_check = is_own or bool(settings.allowed_hosts)
        is_known = known_hosts(settings.allowed_hosts) if has_check else None
        return Guard(limits, settings.forwarded_allow_ips, has_proxies, is_known, on_refused)

    return guard(settings.host, True, is_open), guard(settings.maintenance_host, False, True)


class DatedState(ServerState):
    """Finds the header `Date` when an answer needs it."""

    def __init__(self) -> None:
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer has; the list is not changed."""
        second = int(time.time())
        if second != self._second:
            self._headers = [(b"date", formatdate(second, usegmt=True).encode())]
            self._second = second
        return self._headers

    @default_headers.setter
    def default_headers(self, _headers: list[tuple[bytes, bytes]]) -> None:
        """Uvicorn begins with none."""


class HttpServer(uvicorn.Server):
    """A uvicorn server that does nothing while nothing is asked of it.

    Uvicorn's own wakes ten times a second, to see whether it is to end and what time it is. Signals are
    left to the front, which has two servers and an engine to end.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = DatedState()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Stop listening, let running requests finish, and return from `serve`."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Serve until `end`."""
        await self._ending.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture nothing."""
        yield


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A socket bound to the address, not yet listening.

    Raises:
        SettingsError: the address cannot be had; the sentence names the flag that changes it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small parts of answers at once only where the protocol is named; else a client that
    # keeps its connection waits 40 ms for every answer.
    server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Clients that vanish without a word are found out; accepted connections have the same options.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            server.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        server.bind((host, port))
    except OSError as error:
        server.close()
        raise SettingsError(
            f"Cannot listen on {host}:{port} ({error.strerror}); choose another {flag}."
        ) from None
    return server


def allow_files(connections: int) -> str:
    """Have the system let this process open as many files as its two ports may have connections.

    Args:
        connections: the most of each port; as many more may be in their TLS handshake.

    Returns:
        What the operator should change, empty if it suffices.
    """
    needed = 4 * connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed >= needed:
        return ""
    return (
        f"This process may open {allowed} files, and {connections} connections for each port may need "
        f"{needed}: raise the limit (ulimit -Hn, LimitNOFILE) or give a smaller --max-connections."
    )


def check_free(host: str, port: int, flag: str) -> None:
    """Find out at once whether a port that is bound later can be had.

    Raises:
        SettingsError: it cannot.
    """
    bind(host, port, flag).close()


LAST_SECONDS = 5
"""For answers that are being sent when everything else has ended."""


class Serving:
    """One application on one port.

    Args:
        app: the ASGI application.
        server_socket: from `bind`.
        keep_alive: seconds an idle connection stays open.
        grace: seconds that running requests get when the server ends.
        has_lifespan: whether the application is told when the server ends, after its connections closed.
        guard: what keeps out too many and too slow ones, and wrong names.
        tls: what HTTPS is served by, or None for plain HTTP.
    """

    def __init__(
        self,
        app: ASGIApp,
        server_socket: socket.socket,
        *,
        keep_alive: int = 5,
        grace: int = 5,
        has_lifespan: bool = False,
        tls: ssl.SSLContext | None = None,
        guard: Guard | None = None,
    ) -> None:
        guard = guard or Guard()
        refusals = Refusals(guard.on_refused)
        self.wall = Wall(guard.limits, proxies(guard.proxies), refusals)
        if guard.is_known_host:
            app = KnownHosts(app, guard.is_known_host, refusals)
        config = uvicorn.Config(
            WellFormed(Unfinished(app, guard.limits.most, refusals), refusals),
            http=guarded(self.wall),
            ws="none",
            proxy_headers=guard.has_proxies,
            forwarded_allow_ips=list(guard.proxies),
            lifespan="on" if has_lifespan else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=grace,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        self._socket = server_socket if tls is None else Doorway(server_socket, self.wall.handshakes)
        self._server = HttpServer(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        host, port = self._socket.getsockname()[:2]
        scheme = "https" if self._server.config.is_ssl else "http"
        return f"{scheme}://{'localhost' if host in ('0.0.0.0', '::', '127.0.0.1') else host}:{port}"  # noqa: S104

    async def start(self) -> None:
        """Listen, and return once connections are taken."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn tells by this flag
            await asyncio.sleep(0.005)
        if self._task.done():
            self._task.result()

    def stop_listening(self) -> None:
        """Take no more connections; those that stand are served until `stop`."""
        for server in self._server.servers:
            server.close()

    async def stop(self, grace: float | None = None) -> None:
        """Stop listening, let running requests finish within the grace, return when all is closed.

        Args:
            grace: seconds instead of those given at the start, if it is not None.
        """
        if grace is not None:
            self._server.config.timeout_graceful_shutdown = max(LAST_SECONDS, math.ceil(grace))
        self._server.end()
        if self._task is not None:
            await self._task
        self._socket.close()
