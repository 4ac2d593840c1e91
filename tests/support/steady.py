"""An event loop for tests of what happens when: a machine that stands still for a while does not matter."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Final

TURN: Final = 0.05
"""Seconds that a turn of the loop takes at most, by its own clock."""


class SteadyLoop(asyncio.SelectorEventLoop):
    """Its clock goes on by a turn's length at most, however long the turn took.

    What is due after 0.4 seconds so comes at least eight turns later, and whoever was to do something within
    0.2 seconds has had his turn before.
    """

    def __init__(self) -> None:
        self._seen = self._now = time.monotonic()
        super().__init__()
        selector: Any = self._selector  # type: ignore[attr-defined]  # the stubs leave it out
        select = selector.select
        selector.select = lambda timeout=None: select(TURN if timeout is None else min(timeout, TURN))

    def time(self) -> float:
        """Seconds."""
        seen = time.monotonic()
        self._now += min(seen - self._seen, TURN)
        self._seen = seen
        return self._now


def run_steadily(work: Coroutine[Any, Any, Any]) -> Any:
    """What it returns."""
    with asyncio.Runner(loop_factory=SteadyLoop) as runner:
        return runner.run(work)
