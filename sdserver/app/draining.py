"""The node leaves: balancers are told, then new work is refused, then what was accepted is finished."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sdserver.ops.state import Node

if TYPE_CHECKING:
    from sdserver.api.door import Door

PROBED_SECONDS: Final = 60.0
"""Who asked whether the node is ready within this time will ask again, and is waited for."""
INTERRUPT_SECONDS: Final = 10.0
"""For interrupted requests to answer with the picture so far, before they are dropped."""


class Draining:
    """Takes the node out of service, and back into it. Lives on the event loop.

    Args:
        node: its phase is told to whoever asks.
        door: of the API.
        delay: seconds between telling and refusing, where somebody listens.
        clock: monotonic seconds.
    """

    def __init__(
        self, node: Node, door: "Door", delay: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._node = node
        self._door = door
        self._delay = delay
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    @property
    def is_probed(self) -> bool:
        """Whether somebody lately asked, on either port, whether the node takes requests."""
        asked = [at for at in (self._node.probed_at, self._door.probed_at) if at is not None]
        return bool(asked) and self._clock() - max(asked) < PROBED_SECONDS

    def begin(self, timeout: float | None = None) -> None:
        """Leave, and stay: until taken back, or the node ends.

        Args:
            timeout: seconds, from the refusal of new work, after which unfinished requests are interrupted;
                None for never.
        """
        self._cancel()
        self._tell("Somebody asked for it over the maintenance port.")
        self._task = asyncio.create_task(self._leave(timeout))

    def take_back(self) -> bool:
        """Serve again; whether the node was leaving."""
        self._cancel()
        self._door.open()
        return self._node.take_back()

    async def refuse(self, reason: str, *, at_once: bool) -> None:
        """Tell, wait as long as it takes to be heard, refuse new work.

        Args:
            reason: why, for people.
            at_once: whether nobody need hear of it first.
        """
        self._cancel()
        self._tell(reason)
        if not at_once and not self._door.is_shut and self.is_probed:
            await asyncio.sleep(self._delay)
        self._door.shut()

    async def finish(self, seconds: float) -> None:
        """Wait for what was accepted, then interrupt it, then drop it."""
        for mode, patience in (("interrupt", seconds), ("drop", INTERRUPT_SECONDS)):
            try:
                async with asyncio.timeout(patience):
                    await self._door.empty()
            except TimeoutError:
                for entry in self._door.active():
                    entry.stop("interrupt" if mode == "interrupt" else "drop")

    def _tell(self, reason: str) -> None:
        self._node.enter("draining", reason)
        self._door.leave()

    async def _leave(self, seconds: float | None) -> None:
        if self.is_probed:
            await asyncio.sleep(self._delay)
        self._door.shut()
        if seconds is not None:
            await self.finish(seconds)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
