"""The engine process's log goes to the front, so that there is one, in one form."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from sdserver.engine.messages import Logged

_MOST: Final = 16_000
"""Characters of one record; tracebacks of deep recursion are cut."""
_JOBS: Final[ContextVar[tuple[str, ...]]] = ContextVar("sdserver_jobs", default=())


@contextmanager
def about(jobs: Sequence[str]) -> Iterator[None]:
    """What is logged in the block concerns these jobs, by their ids."""
    token = _JOBS.set(tuple(jobs))
    try:
        yield
    finally:
        _JOBS.reset(token)


class _ToFront(logging.Handler):
    def __init__(self, emit: Callable[[Logged], None]) -> None:
        super().__init__()
        self._send = emit

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(Logged(record.name, record.levelno, self.format(record)[-_MOST:], _JOBS.get()))
        except Exception:  # noqa: BLE001 - a faulty record, or a front that is gone, must not harm who logs it
            self.handleError(record)


def send_logs(emit: Callable[[Logged], None]) -> None:
    """Send this process's log instead of printing it."""
    root = logging.getLogger()
    root.handlers = [_ToFront(emit)]
