"""The stacks of all threads of an engine process, also where its interpreter stands still.

The process writes them to a pipe when it gets a signal, from a handler in C; the front reads them.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
from multiprocessing.connection import Connection
from typing import Final

SECONDS: Final = 1.0
"""How long the stacks are waited for; a stopped process writes none."""
_QUIET: Final = 0.1
_CHUNK: Final = 1 << 16


def write_when_asked(pipe: Connection) -> None:
    """Have this process write its stacks into a pipe at each SIGUSR1, and to stderr when it crashes."""
    os.set_blocking(pipe.fileno(), False)  # nobody may read: then what does not fit is lost
    faulthandler.register(signal.SIGUSR1, file=pipe, all_threads=True)
    with contextlib.suppress(RuntimeError, AttributeError, ValueError):  # a test's stderr is no file
        faulthandler.enable()


async def ask(pid: int, pipe: Connection) -> str:
    """The stacks of a process that was told to write them; empty where it does not answer.

    Args:
        pid: the process.
        pipe: the other end of its pipe.
    """
    _read(pipe)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)
    text, waited, quiet = "", 0.0, 0.0
    while waited < SECONDS and not (text and quiet >= _QUIET):
        await asyncio.sleep(_QUIET / 4)
        waited += _QUIET / 4
        more = _read(pipe)
        quiet = 0.0 if more else quiet + _QUIET / 4
        text += more
    return text


def _read(pipe: Connection) -> str:
    """What stands in the pipe."""
    with contextlib.suppress(OSError):  # it is empty, or closed
        os.set_blocking(pipe.fileno(), False)
        return os.read(pipe.fileno(), _CHUNK).decode("utf-8", "backslashreplace")
    return ""
