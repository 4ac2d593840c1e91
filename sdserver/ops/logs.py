"""The last lines of the log, without secrets, for operators who have no shell on the machine."""

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from sdserver.ops.state import plain

MAX_LINES: Final = 1000
LINE_LENGTH: Final = 2000
_SHORTEST_SECRET: Final = 4
_MASK: Final = "***"
_CREDENTIALS: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]+")
_LOGIN: Final = re.compile(r"(?<=://)[^/\s@]+@")
_QUERY: Final = re.compile(r"(?<=[^\s?]\?)[^\s]+=[^\s]+")


class Redactor:
    """Takes secrets out of text: those it was told, and whatever looks like a login or an address's query.

    Args:
        secrets: passwords, keys and tokens; very short ones are left, for they would be found everywhere.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({one for one in secrets if len(one) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        if self._known is not None:
            text = self._known.sub(_MASK, text)
        text = _CREDENTIALS.sub(rf"\1 {_MASK}", text)
        return _QUERY.sub(_MASK, _LOGIN.sub(f"{_MASK}@", text))


class LogRing(logging.Handler):
    """Keeps the last lines. A record of several lines is several.

    Args:
        redact: takes secrets out.
        clock: seconds since 1970.
    """

    def __init__(self, redact: Callable[[str], str], clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._redact = redact
        self._now = clock
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        try:
            self.add(self.format(record))
        except Exception:  # noqa: BLE001 - a faulty record must not harm who logs it
            self.handleError(record)

    def add(self, text: str) -> None:
        """Keep text that was printed otherwise."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))
        for line in text.splitlines():
            self._lines.append(f"{stamp} {plain(self._redact(line), LINE_LENGTH)}")

    def last(self, count: int) -> list[str]:
        """The last lines, oldest first."""
        return list(self._lines)[-count:] if count else []
