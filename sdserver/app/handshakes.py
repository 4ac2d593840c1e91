"""TLS handshakes that have not ended: asyncio knows none of their connections before, and waits a minute."""

import asyncio
import gc
import socket
from typing import Any, Final

COLLECT_AFTER: Final = 64
"""Failed handshakes. Each leaves asyncio's exception, which holds itself and 256 kB of buffers."""


class Handshakes:
    """Ends those that take too long, and the oldest where there are too many. Lives on the event loop.

    Args:
        most: at once.
        seconds: each may take.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._begun: dict[int, tuple[float, socket.socket]] = {}
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._begun)

    def began(self, connection: socket.socket) -> None:
        """A connection was taken."""
        loop = asyncio.get_running_loop()
        if self._begun.pop(connection.fileno(), None):
            self._failed()  # it is closed, or this one could not have its number
        self._begun[connection.fileno()] = (loop.time(), connection)
        if len(self._begun) > self._most:
            self._end(next(iter(self._begun)))
        if self._timer is None:
            self._watch(loop)

    def ended(self, number: int) -> None:
        """The handshake of the connection with this number succeeded."""
        self._begun.pop(number, None)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._seconds / 10, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for number, (since, connection) in tuple(self._begun.items()):
            if connection.fileno() != number:
                del self._begun[number]
                self._failed()
            elif loop.time() - since > self._seconds:
                self._end(number)
        if self._begun:
            self._watch(loop)

    def _failed(self) -> None:
        """Free what failed handshakes left: the collector, which counts objects, would wait for thousands."""
        self._failures += 1
        if self._failures % COLLECT_AFTER == 0:
            gc.collect()

    def _end(self, number: int) -> None:
        _, connection = self._begun.pop(number)
        self._failed()
        if connection.fileno() == number:
            try:
                connection.shutdown(socket.SHUT_RDWR)  # its transport closes it
            except OSError:
                return  # the client was quicker


class Doorway(socket.socket):
    """A listening socket that tells of every connection it takes.

    Args:
        bound: is taken over, and not to be used any more.
        handshakes: told.
    """

    def __init__(self, bound: socket.socket, handshakes: Handshakes) -> None:
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._handshakes = handshakes

    def accept(self) -> tuple[socket.socket, Any]:
        """As other sockets do."""
        connection, address = super().accept()
        self._handshakes.began(connection)
        return connection, address
