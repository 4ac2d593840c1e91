"""How long tests wait for what has to happen. Waits end when it happens, so this costs nothing."""

import time
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 240.0
"""Seconds: a machine that is many times slower than a developer's, and busy, still comes in time."""

TIMES: Final = (0.05, 0.5, 5.0, 50.0)
"""Seconds, one after the other, for tests of what happens when time is up: the first do where the machine is
quick; too short a time is up before anything was begun."""


def wait_until(is_so: Callable[[], object], pause: float = 0.02) -> None:
    """Wait until the condition holds, looked at once in every `pause` seconds; fail if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)
