"""What crosses between the two processes: any number of messages at a time, pictures uncopied.

A transmission is a count and lengths, a pickle, and the pixels of its pictures as they are. Pixels are
neither copied into the pickle nor out of it: a picture's bytes are what the socket was read into.
"""

import contextlib
import io
import os
import pickle
import socket
import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from sdserver.jobs.events import Picture

_COUNT: Final = struct.Struct("!I")
_LEAST: Final = 4096
"""Bytes from which a picture's pixels go beside the pickle."""
_MOST_PARTS: Final = 512
"""Of one system call; the kernel takes 1024."""


class Wire:
    """One end of a socket pair. One thread may send while another receives.

    Args:
        connection: of `multiprocessing`, which brings it to a spawned process; closed with this.
    """

    def __init__(self, connection: Connection) -> None:
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._socket.setblocking(True)
        connection.close()

    def send(self, messages: Sequence[object]) -> None:
        """Send messages, waiting until the other end has taken them.

        Raises:
            OSError: the other end is closed.
        """
        pixels: list[memoryview] = []
        stream = io.BytesIO()
        _Pickler(stream, pixels).dump(list(messages))
        parts = [stream.getbuffer(), *pixels]
        lengths = struct.pack(f"!{len(parts)}Q", *map(len, parts))
        self._send([memoryview(_COUNT.pack(len(parts)) + lengths), *parts])

    def receive(self) -> list[Any]:
        """What one `send` of the other end sent.

        Raises:
            EOFError: the other end is closed.
            OSError: this end is.
        """
        (count,) = _COUNT.unpack(self._receive(_COUNT.size))
        lengths = struct.unpack(f"!{count}Q", self._receive(8 * count))
        pickled, *pixels = [self._receive(length) for length in lengths]
        found: list[Any] = pickle.loads(pickled, buffers=pixels)  # noqa: S301 - from our own process
        return found

    def close(self) -> None:
        """Close this end; whoever receives at either is told so."""
        with contextlib.suppress(OSError):  # the other end was closed before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send(self, parts: list[memoryview]) -> None:
        while parts:
            sent = self._socket.sendmsg(parts[:_MOST_PARTS])
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if sent:
                parts[0] = parts[0][sent:]

    def _receive(self, length: int) -> bytes:
        """So many bytes, read into the very object that is returned."""
        found = self._socket.recv(length, socket.MSG_WAITALL) if length else b""
        while len(found) < length:  # a signal cut it short, or it is over
            more = self._socket.recv(length - len(found), socket.MSG_WAITALL)
            if not more:
                raise EOFError
            found += more
        return found


class _Pickler(pickle.Pickler):
    """Leaves the pixels of pictures out, and keeps where they are.

    Args:
        stream: takes the pickle.
        pixels: is given the pixels in order.
    """

    def __init__(self, stream: io.BytesIO, pixels: list[memoryview]) -> None:
        super().__init__(stream, protocol=5, buffer_callback=lambda buffer: pixels.append(buffer.raw()))

    def reducer_override(self, value: Any) -> Any:
        """Pictures by size and pixels, all else as it is."""
        if type(value) is Picture and len(value.pixels) >= _LEAST:
            return Picture, (value.width, value.height, pickle.PickleBuffer(value.pixels))
        return NotImplemented
