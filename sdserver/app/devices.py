"""One engine's settings for each device."""

import os
from collections.abc import Sequence
from dataclasses import replace

from sdserver.engine.config import EngineConfig


def one_per_device(config: EngineConfig, devices: Sequence[str]) -> tuple[EngineConfig, ...]:
    """How each engine is started. Those that compute on the processor share it, unless threads are given.

    Args:
        config: of a single engine.
        devices: names, one per engine; none for the single engine alone.
    """
    if not devices:
        return (config,)
    sharing = sum(device == "cpu" for device in devices)
    share = max(1, _cores() // sharing) if sharing > 1 and not config.threads else config.threads
    return tuple(
        replace(config, device=device, threads=share if device == "cpu" else config.threads)
        for device in devices
    )


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
