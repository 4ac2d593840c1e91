"""The two HTTP ports, as tasks of one event loop."""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from sdserver.errors import SettingsError

BACKLOG = 2048


class HttpServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the front: it has two servers and an engine to end."""

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
    try:
        server.bind((host, port))
    except OSError as error:
        server.close()
        raise SettingsError(
            f"Cannot listen on {host}:{port} ({error.strerror}); choose another {flag}."
        ) from None
    return server


def check_free(host: str, port: int, flag: str) -> None:
    """Find out at once whether a port that is bound later can be had.

    Raises:
        SettingsError: it cannot.
    """
    bind(host, port, flag).close()


DRAIN_SECONDS = 90
"""How long what was accepted may take when the server ends."""


class Serving:
    """One application on one port.

    Args:
        app: the ASGI application.
        server_socket: from `bind`.
        keep_alive: seconds an idle connection stays open.
        grace: seconds that running requests get when the server ends.
        has_lifespan: whether the application is told when the server ends, after its connections closed.
        tls: certificate and key (PEM) for HTTPS, or None.
    """

    def __init__(
        self,
        app: ASGIApp,
        server_socket: socket.socket,
        *,
        keep_alive: int = 5,
        grace: int = 5,
        has_lifespan: bool = False,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        certificate, key = tls or (None, None)
        config = uvicorn.Config(
            app,
            lifespan="on" if has_lifespan else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=grace,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        self._socket = server_socket
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

    async def stop(self) -> None:
        """Stop listening, let running requests finish within the grace, return when all is closed."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()
