"""Where a spawned engine process begins. Resolved by name, so that the front stays free of torch."""

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn

from sdserver.engine import stacks
from sdserver.engine.config import EngineConfig
from sdserver.engine.environment import keep_to_itself

_PR_SET_PDEATHSIG: Final = 1


def run(pipe: Connection, config: EngineConfig, told: Connection | None = None) -> None:
    """Import the engine in this process and run it until its front says Shutdown or is gone.

    Args:
        pipe: to the front.
        config: how the engine is started.
        told: where the stacks of its threads are written when the front asks, None for nowhere.
    """
    end_with_parent()
    keep_to_itself()
    if told is not None:
        stacks.write_when_asked(told)
    logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the front decides.
    if hasattr(signal, "SIGHUP"):  # so does the terminal's end, and it may mean a new certificate.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    work_or_leave(lambda: process().run(pipe, config))


def work_or_leave(work: Callable[[], None]) -> None:
    """Do a process's work. Where an exception ends it, leave without the interpreter's farewell, which takes
    seconds and may be held up by a broken device: the front is to hear of it at once.
    """
    try:
        work()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException:  # noqa: BLE001 - the process ends with it
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def end_with_parent() -> None:
    """Have the system kill this process when the one that started it ends, even while it stands still.

    One that runs notices that by its pipe. Where the system knows no such thing, that must do.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


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
