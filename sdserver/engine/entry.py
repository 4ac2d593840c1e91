"""Where a spawned engine process begins. Resolved by name, so that the front stays free of torch."""

import importlib
import logging
import signal
from multiprocessing.connection import Connection

from sdserver.engine.config import EngineConfig


def run(pipe: Connection, config: EngineConfig) -> None:
    """Import the engine in this process and run it until its front says Shutdown or is gone."""
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the front decides.
    importlib.import_module("sdserver.engine.process").run(pipe, config)
