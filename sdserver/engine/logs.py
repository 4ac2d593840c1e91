"""The engine process's log goes to the front, so that there is one, in one form."""

import logging
from collections.abc import Callable
from typing import Final

from sdserver.engine.messages import Logged

_MOST: Final = 16_000
"""Characters of one record; tracebacks of deep recursion are cut."""


class _ToFront(logging.Handler):
    def __init__(self, emit: Callable[[Logged], None]) -> None:
        super().__init__()
        self._send = emit

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(Logged(record.name, record.levelno, self.format(record)[-_MOST:]))
        except Exception:  # noqa: BLE001 - a faulty record, or a front that is gone, must not harm who logs it
            self.handleError(record)


def send_logs(emit: Callable[[Logged], None]) -> None:
    """Send this process's log instead of printing it."""
    root = logging.getLogger()
    root.handlers = [_ToFront(emit)]
