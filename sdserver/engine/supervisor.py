"""Starts the engine process, watches it, and starts it again when it ends unasked."""

import asyncio
import multiprocessing
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from sdserver.engine import entry
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine, Shutdown, ToEngine

STOP_SECONDS = 10.0


class Supervisor:
    """One engine process and its pipe, seen from the front's event loop.

    Args:
        config: what each engine process is started with.
        on_message: told every message of the engine, on the loop.
        on_exit: told the exit code when the process ended without being asked to, on the loop.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_message: Callable[[FromEngine], None],
        on_exit: Callable[[int | None], None],
    ) -> None:
        self._config = config
        self._on_message = on_message
        self._on_exit = on_exit
        self._process: BaseProcess | None = None
        self._outbox: queue.SimpleQueue[ToEngine | None] | None = None
        self._stopping = False
        self._has_spoken = False

    @property
    def pid(self) -> int | None:
        """The engine's process id, None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start a fresh engine process. Call on the event loop."""
        context = multiprocessing.get_context("spawn")
        pipe, child = context.Pipe(duplex=True)
        self._process = context.Process(target=entry.run, args=(child, self._config), name="sdserver-engine")
        self._process.start()
        self._has_spoken = False
        child.close()
        self._outbox = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        for target, args in (
            (_transmit, (self._outbox, pipe)),
            (self._receive, (loop, pipe, self._process, self._outbox)),
        ):
            threading.Thread(target=target, args=args, daemon=True, name=f"engine{target.__name__}").start()

    def send(self, message: ToEngine) -> None:
        """Send a message without waiting for the engine to take it.

        One that meets a dying engine is lost: `on_exit` follows, and whoever cares sends it again.
        """
        if self._outbox is not None:
            self._outbox.put(message)

    async def stop(self) -> None:
        """End the engine: ask, then terminate, then kill.

        One that never spoke still imports or loads its first checkpoint: it is not asked.
        """
        self._stopping = True
        process = self._process
        if process is None:
            return
        if self._has_spoken:
            self.send(Shutdown())
        else:
            process.terminate()
        for escalate in (process.terminate, process.kill):
            await asyncio.to_thread(process.join, STOP_SECONDS)
            if not process.is_alive():
                break
            escalate()
        await asyncio.to_thread(process.join, STOP_SECONDS)

    def _receive(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: Connection,
        process: BaseProcess,
        outbox: "queue.SimpleQueue[ToEngine | None]",
    ) -> None:
        try:
            while True:
                message: FromEngine = pipe.recv()
                self._has_spoken = True
                loop.call_soon_threadsafe(self._on_message, message)
        except (EOFError, OSError):
            pass
        process.join()
        outbox.put(None)
        if not self._stopping and not loop.is_closed():
            loop.call_soon_threadsafe(self._on_exit, process.exitcode)


def _transmit(outbox: "queue.SimpleQueue[ToEngine | None]", pipe: Connection) -> None:
    """Write messages to the pipe on a thread of its own: an engine that stopped reading blocks it alone."""
    while (message := outbox.get()) is not None:
        try:
            pipe.send(message)
        except OSError:
            break
    pipe.close()
