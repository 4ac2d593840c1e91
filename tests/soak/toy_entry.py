"""Where an engine process with a toy for a device begins; the front, which names it, needs no torch."""

from typing import Any


def run(*given: Any) -> None:
    """As `engine.entry.run`."""
    import toy_process  # noqa: PLC0415 - in the engine's process alone

    toy_process.run(*given)
