"""One process at a time per file, also where file locks are not to be trusted.

`flock` succeeds for everybody on some network file systems. So the holder of the lock also writes an
owner record that nobody else may create, and touches it while it works.
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from sdserver.ops.downloads.disk import boot_id, read_json
from sdserver.ops.downloads.limits import Terms

NO_LOCKS_HERE = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@contextmanager
def sole_owner(folder: Path, key: str, terms: Terms) -> Iterator[None]:
    """Wait until no other process works on `key`, then hold it.

    Raises:
        DownloadCancelled: cancelled while waiting.
    """
    lock, record = folder / f"{key}.lock", folder / f"{key}.owner"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _try_lock(handle):
            terms.pause(terms.limits.poll)
        _claim(record, lock, terms)
        with _touching(record, terms.limits.stale_owner / 4):
            yield
    finally:
        os.close(handle)


@contextmanager
def owner_if_free(folder: Path, key: str) -> Iterator[bool]:
    """Hold `key` if no process works on it, without waiting; tells whether it is held."""
    lock, record = folder / f"{key}.lock", folder / f"{key}.owner"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        is_locked = _try_lock(handle)
        if is_locked and _left_behind(record, lock):
            record.unlink(missing_ok=True)
        if not is_locked or not _create(record):
            yield False
            return
        try:
            yield True
        finally:
            record.unlink(missing_ok=True)
    finally:
        os.close(handle)


@contextmanager
def brief_lock(path: Path) -> Iterator[None]:
    """Hold a lock for the time of a small file's change. The lock file stays."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS_HERE:
                raise
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Whether the lock is held now, or this file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
    return True


def _claim(record: Path, lock: Path, terms: Terms) -> None:
    """Create the owner record, as soon as no living process holds one."""
    seen, since = None, terms.limits.pace.now()
    while not _create(record):
        sign = _last_sign(record)
        if sign != seen:
            seen, since = sign, terms.limits.pace.now()
        silent = terms.limits.pace.now() - since
        if _left_behind(record, lock) or silent >= terms.limits.stale_owner:
            record.unlink(missing_ok=True)
        else:
            terms.pause(terms.limits.poll)


def _create(record: Path) -> bool:
    """Make the owner record; whether there was none."""
    try:
        handle = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"machine": _machine(), "pid": os.getpid()}, file)
    return True


def _last_sign(record: Path) -> int:
    """When the owner touched its record, by the file system's clock; only changes matter."""
    try:
        return record.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _left_behind(record: Path, lock: Path) -> bool:
    """Whether a process of this machine wrote the record and, since we hold the lock, is gone."""
    if read_json(record).get("machine") != _machine():
        return False
    handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True  # the lock keeps others out here, so it would have kept us out
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _machine() -> str:
    return boot_id() or socket.gethostname()


@contextmanager
def _touching(record: Path, every: float) -> Iterator[None]:
    """Give a sign of life while the block runs, then remove the record."""
    done = Event()

    def touch() -> None:
        while not done.wait(every):
            with suppress(FileNotFoundError):
                os.utime(record)

    thread = Thread(target=touch, name="download-owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        record.unlink(missing_ok=True)
