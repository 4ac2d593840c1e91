"""The folder of compiled networks."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sdserver.bundle.compiled.build import PACKAGE

KEPT: Final = 8
LEFT_SECONDS: Final = 2 * 3600.0
_OTHERS_MAY_WRITE: Final = 0o022


class Untrusted(Exception):
    """What lies in the folder may be somebody else's; the message says why."""


class Store:
    """Compiled networks on disk, by their blueprints' keys. They are machine code that this process runs, so
    a folder that others may write to is not used.

    A mark beside a network says that it is being tried. One that is still there at the next start was left
    by a process that the code ended.

    Args:
        folder: made where it is missing.

    Raises:
        Untrusted: it belongs to, or may be written by, somebody else.
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
            raise Untrusted(f"{folder} may be written by others: chmod it to 700")
        self._folder = folder

    def find(self, key: str) -> Path | None:
        """The file of a network, marked as used now; None if there is none."""
        path = self._path(key)
        if not path.is_file():
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    @contextmanager
    def making(self) -> Iterator[Path]:
        """A folder to make a network in, which is gone afterwards."""
        with tempfile.TemporaryDirectory(
            prefix="making-", dir=self._folder, ignore_cleanup_errors=True
        ) as made:
            yield Path(made)

    def keep(self, key: str, made: Path) -> Path:
        """Take over what was made in a folder; the network that was not used for longest may go."""
        path = self._path(key)
        (made / PACKAGE).replace(path)
        kept = sorted(self._folder.glob("*.pt2"), key=lambda one: one.stat().st_mtime)
        for old in kept[:-KEPT]:
            old.unlink(missing_ok=True)
            self._mark(old.stem).unlink(missing_ok=True)
        return path

    def tidy(self) -> None:
        """Remove what processes left that were ended while they made a network, not what others make now."""
        for left in self._folder.glob("making-*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)

    def is_marked(self, key: str) -> bool:
        """Whether a process was lost while it tried the network."""
        return self._mark(key).exists()

    def mark(self, key: str) -> None:
        """From here on, the network is tried."""
        self._mark(key).touch()

    def unmark(self, key: str) -> None:
        """It was tried, and did no harm."""
        self._mark(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.pt2"

    def _mark(self, key: str) -> Path:
        return self._folder / f"{key}.trial"
