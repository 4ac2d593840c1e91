"""Where a spawned engine process begins. Resolved by name, so that the front stays free of torch."""

import gc
import importlib
import logging
import signal
from multiprocessing.connection import Connection
from typing import Any

from sdserver.engine import stacks
from sdserver.engine.config import EngineConfig


def run(pipe: Connection, config: EngineConfig, told: Connection | None = None) -> None:
    """Import the engine in this process and run it until its front says Shutdown or is gone.

    Args:
        pipe: to the front.
        config: how the engine is started.
        told: where the stacks of its threads are written when the front asks, None for nowhere.
    """
    if told is not None:
        stacks.write_when_asked(told)
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the front decides.
    process().run(pipe, config)


def process() -> Any:
    """`sdserver.engine.process`, imported without the collector's passes over what never is garbage:
    they take a sixth of the time. Later passes leave all of it out.
    """
    gc.disable()
    try:
        return importlib.import_module("sdserver.engine.process")
    finally:
        gc.freeze()
        gc.enable()
