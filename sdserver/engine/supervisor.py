"""Starts the engine process, watches it, and ends one that hangs."""

import asyncio
import logging
import multiprocessing
import queue
import threading
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

from sdserver.engine import entry, stacks
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine, Hung, Logged, LongCall, Pulse, Shutdown, ToEngine
from sdserver.engine.pipe import Wire
from sdserver.engine.watchdog import Watchdog

log = logging.getLogger(__name__)

STOP_SECONDS: Final = 10.0
TERMINATE_SECONDS: Final = 2.0
"""How long an engine that hangs is given to end by itself, before it is killed."""


class Supervisor:
    """One engine process and its pipe, seen from the front's event loop.

    An engine that hangs (see `watchdog`) is ended: `on_message` is told `Hung`, and then `on_exit`, as of one
    that ended by itself.

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
        self._wire: Wire | None = None
        self._stacks: Connection | None = None
        self._stopping = False
        self._has_spoken = False
        self._watchdog = Watchdog(config.hang_limit)
        self._next_look: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The engine's process id, None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start a fresh engine process. Call on the event loop."""
        context = multiprocessing.get_context("spawn")
        pipe, child = context.Pipe(duplex=True)
        if self._stacks is not None:
            self._stacks.close()
        self._stacks, told = context.Pipe(duplex=False)
        self._process = context.Process(
            target=entry.run, args=(child, self._config, told), name="sdserver-engine"
        )
        self._process.start()
        self._has_spoken = False
        child.close()
        told.close()
        self._wire = wire = Wire(pipe)
        self._outbox = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        for target, args in (
            (_transmit, (self._outbox, wire)),
            (self._receive, (loop, wire, self._process, self._outbox)),
        ):
            threading.Thread(target=target, args=args, daemon=True, name=f"engine{target.__name__}").start()
        self._watchdog.started()
        self._look_later()

    def send(self, message: ToEngine) -> None:
        """Send a message without waiting for the engine to take it.

        One that meets a dying engine is lost: `on_exit` follows, and whoever cares sends it again.
        """
        if self._outbox is not None:
            self._watchdog.sent(message)
            self._outbox.put(message)

    async def stacks(self) -> str:
        """The stacks of all threads of the engine; a sentence where there are none."""
        process, pipe = self._process, self._stacks
        if process is None or pipe is None or process.pid is None or _has_ended(process):
            return "There is no engine process now."
        if not self._has_spoken:
            return "The engine process is starting."
        return await stacks.ask(process.pid, pipe) or "The engine process does not answer; it may be stopped."

    async def stop(self) -> None:
        """End the engine: ask, then terminate, then kill.

        One that never spoke still imports or loads its first checkpoint: it is not asked.
        """
        self._stopping = True
        if self._next_look is not None:
            self._next_look.cancel()
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

    def _look_later(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = asyncio.get_running_loop().call_later(self._watchdog.pause, self._look)

    def _look(self) -> None:
        """See whether the engine hangs; if so, look no more until the next one starts."""
        silence = self._watchdog.look()
        if silence is None:
            self._look_later()
            return
        process = self._process
        if process is not None and not _has_ended(process) and not self._stopping:
            self._ending = asyncio.get_running_loop().create_task(self._end_hung(process, silence))

    async def _end_hung(self, process: BaseProcess, silence: float) -> None:
        """Say where it stands, then terminate, then kill. One that survives even that is left to itself."""
        self._tell(asyncio.get_running_loop(), [Hung(silence)])
        log.error("The engine process %s was silent for %.1f s; it is ended.", process.pid, silence)
        found = ""
        if process.pid is not None and self._stacks is not None:
            found = await stacks.ask(process.pid, self._stacks)
            log.error("Its stacks: %s", found or "none, it does not answer.")
        if found:  # it takes signals
            process.terminate()
            await asyncio.to_thread(_has_ended, process, TERMINATE_SECONDS)
        if not _has_ended(process):
            process.kill()
            await asyncio.to_thread(_has_ended, process, STOP_SECONDS)
        if not _has_ended(process) and self._wire is not None and self._process is process:
            log.critical("The engine process %s cannot be killed; its device hangs.", process.pid)
            self._wire.close()

    def _receive(
        self,
        loop: asyncio.AbstractEventLoop,
        wire: Wire,
        process: BaseProcess,
        outbox: "queue.SimpleQueue[ToEngine | None]",
    ) -> None:
        try:
            while True:
                messages = wire.receive()
                self._has_spoken = True
                loop.call_soon_threadsafe(self._tell, loop, messages)
        except (EOFError, OSError):
            pass
        process.join(STOP_SECONDS)
        if process.is_alive():  # it closed its end and lives on: it is of no more use
            process.kill()
            process.join(STOP_SECONDS)
        outbox.put(None)
        if not self._stopping and not loop.is_closed():
            loop.call_soon_threadsafe(self._on_exit, process.exitcode)

    def _tell(self, loop: asyncio.AbstractEventLoop, messages: Sequence[FromEngine]) -> None:
        """Pass messages on; a fault with one leaves the others alone."""
        for message in messages:
            if not isinstance(message, Hung):
                self._watchdog.heard(message)
            if isinstance(message, LongCall | Pulse):
                continue
            if isinstance(message, Logged) and not message.jobs:
                logging.getLogger(message.logger).log(message.level, "%s", message.text)
                continue
            try:
                self._on_message(message)
            except Exception as error:  # noqa: BLE001 - told as the loop tells those of its callbacks
                loop.call_exception_handler({"message": "a message was not taken in", "exception": error})


def _has_ended(process: BaseProcess, seconds: float = 0.0) -> bool:
    """Whether a process ends within so many seconds. Its exit code is left for the thread that receives
    from it: of two that ask the system for it, one gets none.
    """
    return bool(connection.wait([process.sentinel], seconds))


def _transmit(outbox: "queue.SimpleQueue[ToEngine | None]", wire: Wire) -> None:
    """Send messages on a thread of its own: an engine that stopped reading blocks it alone."""
    while (message := outbox.get()) is not None:
        try:
            wire.send([message])
        except OSError:
            break
    wire.close()
