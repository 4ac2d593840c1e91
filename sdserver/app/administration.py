"""What operators may do to the node over the maintenance port."""

import asyncio
import faulthandler
import gc
import logging
import os
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdserver.app.draining import Draining
from sdserver.engine.client import EngineClient
from sdserver.engine.messages import MemoryFacts
from sdserver.errors import CheckpointError, EngineFailure, NotReady
from sdserver.settings.model import Settings

if TYPE_CHECKING:
    from sdserver.api.door import Door

log = logging.getLogger(__name__)

COLLECT_SECONDS: Final = 60.0
_STATM: Final = "/proc/{}/statm"


class Administrator:
    """Does what the maintenance port's routes ask for. Lives on the event loop.

    Args:
        settings: shown on request.
        client: of the engine.
        end: begins the node's end.
        is_ending: whether it has begun.
    """

    def __init__(
        self,
        settings: Settings,
        client: EngineClient,
        end: Callable[[], None],
        is_ending: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._client = client
        self._end = end
        self._is_ending = is_ending
        self._draining: Draining | None = None
        self._door: Door | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def serves(self, draining: Draining, door: "Door") -> None:
        """The API is there: what concerns it can be done from now on."""
        self._draining, self._door = draining, door

    def drain(self, timeout: float | None) -> int:
        """Take no new work; how many requests are unfinished.

        Raises:
            NotReady: there is nothing to drain.
        """
        draining, door = self._serving()
        draining.begin(timeout)
        return len(door.active())

    def undrain(self) -> None:
        """Take new work again.

        Raises:
            NotReady: the node was not drained, or is ending.
        """
        draining, _ = self._serving()
        if not draining.take_back():
            raise NotReady("The node is not being drained.")

    def interrupt(self) -> bool:
        """Stop the oldest request that runs at its next step; whether any ran."""
        active = self._door.active() if self._door else ()
        running = next((entry for entry in active if entry.state == "running"), None)
        if running is None:
            return False
        running.stop("interrupt")
        return True

    def cancel(self, job: str) -> bool:
        """Drop a request; whether it was there and unfinished."""
        entry = self._door.find(job) if self._door else None
        if entry is None or entry.is_over:
            return False
        entry.stop("drop")
        return True

    def unload(self) -> None:
        """Begin to free the device's memory."""
        self._serving()
        self._begin(self._client.unload())

    def reload(self) -> None:
        """Begin to load the checkpoint again."""
        self._serving()
        self._begin(self._client.reload())

    def shutdown(self) -> None:
        """Begin to end, as SIGTERM does."""
        self._end()

    async def collect(self) -> Mapping[str, object]:
        """Give back memory that nothing uses; bytes before and after.

        Raises:
            NotReady: the engine is in the middle of something long.
        """
        before = self._memory(self._client.memory)
        gc.collect()
        try:
            async with asyncio.timeout(COLLECT_SECONDS):
                memory = await self._client.collect()
        except TimeoutError:
            raise NotReady("The engine is in the middle of something long; try again later.") from None
        return {"before": before, "after": self._memory(memory)}

    def config(self) -> Mapping[str, object]:
        """The settings, secrets masked."""
        return self._settings.public()

    async def stacks(self) -> str:
        """Where every thread of the node is."""
        return f"Front process {os.getpid()}:\n{_own_stacks()}\nEngine:\n{await self._client.stacks()}\n"

    def _serving(self) -> tuple[Draining, "Door"]:
        if self._draining is None or self._door is None:
            raise NotReady("The node does not serve yet.")
        if self._is_ending():
            raise NotReady("The node is ending.")
        return self._draining, self._door

    def _memory(self, device: MemoryFacts | None) -> dict[str, object]:
        return {
            "front_resident": _resident(os.getpid()),
            "engine_resident": sum(_resident(pid) or 0 for pid in self._client.pids) or None,
            "device": None if device is None else asdict(device),
        }

    def _begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Have it done; that it failed is logged, for nobody waits."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, CheckpointError | EngineFailure):
            log.error("What the operator asked for failed: %s", error)
        elif error is not None:
            log.error("What the operator asked for failed.", exc_info=error)


def _own_stacks() -> str:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _resident(pid: int | None) -> int | None:
    """Memory that a process holds, in bytes."""
    try:
        pages = int(Path(_STATM.format(pid)).read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
