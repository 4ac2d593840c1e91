"""A TCP proxy on loopback that breaks what passes through it, in the ways that networks do."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
CHUNK = 65_536
NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with the network. Bytes and seconds; counts are per connection.

    All but `down` apply to connections that stand, too, from their next piece on.

    Attributes:
        down: connections are refused as by a port that nobody listens on (they are reset at once).
        latency: before each piece is passed on.
        bandwidth: bytes per second, each way; 0 for no limit. Use it with `slice`, for pieces arrive whole.
        cut_after: bytes that clients get to send before the connection is closed; None for all.
        cut_answer_after: the same for what they receive.
        reset: what `cut_after` and `cut_answer_after` do is a reset (RST), not an orderly end.
        silent: nothing is passed on any more, and nothing is closed.
        slow_close: seconds between the other side's end and telling of it.
        slice: pieces of at most so many bytes; 0 for pieces as they come.
    """

    down: bool = False
    latency: float = 0.0
    bandwidth: float = 0.0
    cut_after: int | None = None
    cut_answer_after: int | None = None
    reset: bool = False
    silent: bool = False
    slow_close: float = 0.0
    slice: int = 0


class FaultProxy:
    """Passes connections to a port of this machine. `faults` may be replaced at any time, by any thread.

    Attributes:
        port: where it listens.
        connections: that were taken, those refused by `down` included.
        sent: bytes that clients sent and that were passed on, of all connections.
    """

    def __init__(self, target: int, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.connections = 0
        self.sent = 0
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.socket()
        self._socket.bind((LOOPBACK, 0))
        self.port = int(self._socket.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        self._listens.wait()

    def close(self) -> None:
        """End, with all connections."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()

    def drop(self) -> None:
        """Reset all connections that stand; new ones are taken."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._socket, limit=CHUNK)
        self._listens.set()
        await self._ended.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.faults.down:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(LOOPBACK, self._target, limit=CHUNK)
        except OSError:
            _reset(writer)
            return
        ways = [
            asyncio.ensure_future(self._pass(reader, up_writer, is_answer=False)),
            asyncio.ensure_future(self._pass(up_reader, writer, is_answer=True)),
        ]
        try:
            await asyncio.gather(*ways)
        except (_Cut, OSError):
            for one in (writer, up_writer):
                _reset(one) if self.faults.reset else one.close()
        except asyncio.CancelledError:
            for one in (writer, up_writer):
                _reset(one)
            raise
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in (writer, up_writer):
                one.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        """Pass on one direction until it ends.

        Raises:
            _Cut: as many bytes were passed on as may be.
        """
        passed = 0
        while data := await reader.read(self.faults.slice or CHUNK):
            while self.faults.silent:
                await asyncio.sleep(0.02)
            faults = self.faults
            await asyncio.sleep(faults.latency + (len(data) / faults.bandwidth if faults.bandwidth else 0))
            most = faults.cut_answer_after if is_answer else faults.cut_after
            part = data if most is None else data[: max(0, most - passed)]
            writer.write(part)
            await writer.drain()
            passed += len(part)
            self.sent += 0 if is_answer else len(part)
            if len(part) < len(data):
                raise _Cut
        await asyncio.sleep(self.faults.slow_close)
        with contextlib.suppress(OSError):
            writer.write_eof()


class _Cut(Exception):
    """The connection ends here."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    writer.transport.abort()


@contextmanager
def fault_proxy(target: int, faults: Faults | None = None) -> Iterator[FaultProxy]:
    """A proxy to a port of this machine, ended with the block."""
    proxy = FaultProxy(target, faults)
    try:
        yield proxy
    finally:
        proxy.close()
