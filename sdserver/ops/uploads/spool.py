"""Pictures that wait to be uploaded: a folder of hard links to what was saved.

The folder is the journal: a picture waits while its link is there. A link comes and goes in one step, so
whatever kills the process leaves each picture waiting or done. What is saved may be changed or deleted
meanwhile: the link keeps what was saved. Where links cannot be made, copies stand in.

Several processes may share the folder. Who uploads a picture holds a lock on it, and what others left
is found again by `rescan`.
"""

import fcntl
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from sdserver.ops.uploads.failure import UploadFailure

log = logging.getLogger(__name__)

WhenFull = Literal["oldest", "newest"]
NAME: Final = re.compile(r"([0-9]{20})-[0-9a-f]{16}\.([a-z0-9]{1,5})")
EXTENSION: Final = re.compile(r"[a-z0-9]{1,5}")
PASSING: Final = ".tmp"
STALE_SECONDS: Final = 3600.0
"""After which a copy that was never finished is removed."""

FULL: Final = "The upload spool is full; the picture will not be uploaded."
DROPPED: Final = "The upload spool is full; the oldest pictures in it will not be uploaded."


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is known of a picture that waits.

    Attributes:
        size: in bytes.
        since: monotonic seconds.
    """

    size: int
    since: float


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A picture taken for uploading; nobody else uploads it meanwhile.

    Attributes:
        name: in the spool's folder.
        waiting: what was known of it.
        extension: its format's.
        saved_at: seconds since 1970.
        file: open and locked.
    """

    name: str
    waiting: Waiting
    extension: str
    saved_at: float
    file: BinaryIO

    def read(self) -> bytes:
        """The picture. Blocks.

        Raises:
            UploadFailure: the disk does not give it.
        """
        try:
            self.file.seek(0)
            return self.file.read()
        except OSError as error:
            raise UploadFailure("unreadable", error.strerror or "") from None


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """How much waits, what is being uploaded included.

    Attributes:
        oldest_seconds: how long the oldest has waited; 0 if none does.
        dropped: pictures that left the full spool without being uploaded.
        refused: pictures that never came in.
    """

    files: int
    bytes: int
    oldest_seconds: float
    dropped: int
    refused: int


class Spool:
    """The folder, and what it may hold. Safe to use from several threads; everything blocks shortly.

    Args:
        folder: made if it is not there.
        max_files, max_bytes: bounds.
        when_full: whether the oldest pictures make room, or the newest stays out.
        clock: monotonic seconds.
        now: seconds since 1970.

    Raises:
        OSError: the folder cannot be made or read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_files: int,
        max_bytes: int,
        when_full: WhenFull = "oldest",
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_files, self._max_bytes = max_files, max_bytes
        self._when_full = when_full
        self._clock, self._now = clock, now
        self._lock = threading.Lock()
        self._waiting: dict[str, Waiting] = {}
        self._active: dict[str, Waiting] = {}
        self._bytes = 0
        self._dropped = self._refused = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self.rescan()

    def add(self, path: Path, extension: str) -> str | None:
        """Have a file uploaded as it is now. It must not be written to afterwards, only replaced.

        Args:
            path: whole on the disk.
            extension: of its format.

        Returns:
            A sentence if this or another picture will not be uploaded, else None.
        """
        name = f"{time.time_ns():020}-{os.urandom(8).hex()}.{extension}"
        told = None
        try:
            if not EXTENSION.fullmatch(extension):
                raise OSError(f"{extension!r} is no extension")
            size = path.stat().st_size
            with self._lock:
                dropped = self._room_for(size)
                if dropped is None:
                    self._refused += 1
                    return FULL
                self._bytes += size
            told = self._drop(dropped)
            self._enter(path, name, size)
        except OSError as error:
            with self._lock:
                self._refused += 1
            return f"The picture could not be put into the upload spool: {error.strerror or 'it is no file'}."
        return told

    def take(self) -> Claim | None:
        """The picture that waits longest, or None. Others' are passed over."""
        while True:
            with self._lock:
                name = next(iter(self._waiting), None)
                if name is None:
                    return None
                waiting = self._active[name] = self._waiting.pop(name)
            file = _locked(self._folder / name)
            if file is not None:
                stamp, extension = _parts(name)
                return Claim(name, waiting, extension, stamp, file)
            with self._lock:  # uploaded by another process, or about to be
                self._forget(name)

    def done(self, claim: Claim) -> None:
        """It is uploaded, and waits no more."""
        try:
            (self._folder / claim.name).unlink(missing_ok=True)
        except OSError as error:
            log.error("an uploaded picture stays in the spool and is uploaded again: %s", error)
        claim.file.close()
        with self._lock:
            self._forget(claim.name)

    def later(self, claim: Claim) -> None:
        """It is not uploaded, and waits again, behind the others."""
        claim.file.close()
        with self._lock:
            self._waiting[claim.name] = self._active.pop(claim.name)

    def rescan(self) -> None:
        """Find what other processes left in the folder, and miss what they took from it.

        Raises:
            OSError: the folder cannot be read.
        """
        with self._lock:
            found = {entry.name: entry for entry in os.scandir(self._folder) if NAME.fullmatch(entry.name)}
            for name in [name for name in self._waiting if name not in found]:
                self._active[name] = self._waiting.pop(name)
                self._forget(name)
            for name in sorted(found.keys() - self._waiting.keys() - self._active.keys()):
                try:
                    size = found[name].stat().st_size
                except FileNotFoundError:
                    continue
                age = max(0.0, self._now() - _parts(name)[0])
                self._waiting[name] = Waiting(size, self._clock() - age)
                self._bytes += size

    @property
    def waiting(self) -> int:
        """How many pictures `take` may find."""
        return len(self._waiting)

    def facts(self) -> SpoolFacts:
        """How full it is."""
        with self._lock:
            all_of_them = [*self._waiting.values(), *self._active.values()]
            now = self._clock()
            age = max(0.0, now - min((one.since for one in all_of_them), default=now))
            return SpoolFacts(len(all_of_them), self._bytes, age, self._dropped, self._refused)

    def _room_for(self, size: int) -> list[str] | None:
        """Which pictures must go, or None if there can be no room. Call it with the lock."""
        files, held = len(self._waiting) + len(self._active) + 1, self._bytes + size
        gone: list[str] = []
        for name, waiting in self._waiting.items():
            if self._when_full == "newest" or (files <= self._max_files and held <= self._max_bytes):
                break
            gone.append(name)
            files, held = files - 1, held - waiting.size
        if files > self._max_files or held > self._max_bytes:
            return None
        for name in gone:
            self._active[name] = self._waiting.pop(name)
            self._forget(name)
        self._dropped += len(gone)
        return gone

    def _drop(self, names: list[str]) -> str | None:
        for name in names:
            with suppress(OSError):  # what stays is found again by `rescan`
                (self._folder / name).unlink(missing_ok=True)
        return DROPPED if names else None

    def _enter(self, path: Path, name: str, size: int) -> None:
        """Make the link. Bytes are counted already."""
        try:
            _link(path, self._folder / name)
        except OSError:
            with self._lock:
                self._bytes -= size
            raise
        with self._lock:
            if name in self._waiting or name in self._active:  # a rescan was faster, and counted it
                self._bytes -= size
            else:
                self._waiting[name] = Waiting(size, self._clock())

    def _forget(self, name: str) -> None:
        self._bytes -= self._active.pop(name).size

    def _sweep(self) -> None:
        """Remove copies that a killed process did not finish."""
        for path in self._folder.glob(f"*{PASSING}"):
            if self._now() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except FileNotFoundError:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, place)
    except OSError:  # another file system, or one without links
        passing = place.with_suffix(PASSING)
        try:
            shutil.copyfile(source, passing)
            passing.replace(place)
        finally:
            passing.unlink(missing_ok=True)


def _locked(path: Path) -> BinaryIO | None:
    """The file, open and locked; None if it is gone or another process has it."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.stat()  # it may have gone between opening and locking
    except OSError:
        file.close()
        return None
    return file


def _parts(name: str) -> tuple[float, str]:
    """When it was saved, in seconds since 1970, and its extension."""
    stamp, _, rest = name.partition("-")
    return int(stamp) / 1e9, rest.rpartition(".")[2]
