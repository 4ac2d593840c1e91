"""What was read from files, remembered until they change."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[int, int]
"""Time of change in nanoseconds, and size: what tells that a file is another one."""

MAX_KEPT = 10_000


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file."""
    return status.st_mtime_ns, status.st_size


class FileFacts(Generic[T]):
    """Reads facts from files, each once while it is unchanged. Safe to use from several threads.

    Args:
        read: reads one file; raises OSError or ValueError where it cannot.
    """

    def __init__(self, read: Callable[[Path], T]) -> None:
        self._read = read
        self._known: dict[Path, tuple[Stamp, T | None]] = {}

    def of(self, path: Path) -> T | None:
        """The facts of a file; None, with one warning, if it cannot be read or understood."""
        try:
            stamp = stamp_of(path.stat())
        except OSError:
            return None
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        facts = self._fresh(path)
        if len(self._known) >= MAX_KEPT:
            self._known.clear()
        self._known[path] = stamp, facts
        return facts

    def _fresh(self, path: Path) -> T | None:
        try:
            return self._read(path)
        except (OSError, ValueError) as error:
            log.warning("the file %s is left out: %s", path, error)
            return None
