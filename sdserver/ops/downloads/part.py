"""A file that is being fetched, and what must be known to go on with it after a restart."""

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event

from sdserver.ops.downloads.content import chunks
from sdserver.ops.downloads.disk import boot_id, read_json, write_json


@dataclass(frozen=True, slots=True)
class Notes:
    """What is kept beside the bytes. Holds no secret.

    Attributes:
        source: the address, for people.
        name: the file's final name.
        validator: an ETag or Last-Modified that tells this version from others, or "".
        total: bytes of the whole file, None while unknown.
        synced: bytes that are on the disk for sure.
        boot: the machine's boot, while which all written bytes can be trusted.
    """

    source: str
    name: str
    validator: str
    total: int | None
    synced: int
    boot: str | None


class Part:
    """The growing file `<key>.part` with its `<key>.json`, and the digest of its bytes.

    Opening it keeps what an earlier process left, as far as it can be trusted: after a crash of the
    machine that is what was synced, otherwise all.

    Args:
        folder: where both files live.
        key: the source's key.
        sync_every: bytes between two fsyncs.
        cancelled: ends the reading of what is there.
    """

    def __init__(self, folder: Path, key: str, sync_every: int, cancelled: Event) -> None:
        self.path = folder / f"{key}.part"
        self._notes_path = folder / f"{key}.json"
        self._sync_every = sync_every
        self.notes = _read_notes(self._notes_path)
        self._digest = hashlib.sha256()
        # Unbuffered, so that `size` is what the file has.
        self._file = self.path.open("ab", buffering=0)
        try:
            self._keep_trusted()
            for chunk in chunks(self.path, cancelled):
                self._digest.update(chunk)
        except BaseException:
            self._file.close()
            raise
        self.size = self._unsynced_from = self._file.tell()

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.notes is not None and self.size == self.notes.total

    @property
    def sha256(self) -> str:
        """The digest of the bytes so far, in hex."""
        return self._digest.hexdigest()

    def restart(self, notes: Notes) -> None:
        """Begin anew, with another version of the file."""
        self._empty()
        self.notes = replace(notes, synced=0, boot=boot_id())
        write_json(self._notes_path, asdict(self.notes))

    def forget(self) -> None:
        """Throw away the bytes and what is known of them."""
        self._empty()
        self.notes = None
        self._notes_path.unlink(missing_ok=True)

    def learn_total(self, total: int) -> None:
        """Note the size of the whole file, which was not known at its start."""
        if self.notes is not None:
            self.notes = replace(self.notes, total=total)

    def append(self, chunk: bytes) -> None:
        """Add bytes at the end."""
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._digest.update(chunk)
        self.size += len(chunk)
        if self.size - self._unsynced_from >= self._sync_every:
            self.sync()

    def sync(self) -> None:
        """Bring everything to the disk and note how much that is."""
        os.fsync(self._file.fileno())
        self._unsynced_from = self.size
        if self.notes is not None:
            self.notes = replace(self.notes, synced=self.size, boot=boot_id())
            write_json(self._notes_path, asdict(self.notes))

    def close(self) -> None:
        """Sync and close, unless it was abandoned."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def abandon(self) -> None:
        """Close although the disk takes no more; what was written stays."""
        self._file.close()

    def quarantine(self) -> Path:
        """Put a closed part that is of no use aside as `<key>.bad`, in place of an older one."""
        bad = self.path.with_suffix(".bad")
        self.path.replace(bad)
        self._notes_path.unlink(missing_ok=True)
        return bad

    def settle(self) -> None:
        """The part was moved to its place: remove what only it needed, and an older `.bad`."""
        self._notes_path.unlink(missing_ok=True)
        self.path.with_suffix(".bad").unlink(missing_ok=True)

    def _empty(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self._digest = hashlib.sha256()
        self.size = self._unsynced_from = 0

    def _keep_trusted(self) -> None:
        size = self._file.tell()
        if self.notes is None:
            trusted = 0
        elif self.notes.boot is not None and self.notes.boot == boot_id():
            trusted = size
        else:
            trusted = min(size, self.notes.synced)
        if trusted < size:
            self._file.truncate(trusted)
            self._file.seek(trusted)


def _read_notes(path: Path) -> Notes | None:
    match read_json(path):
        case {
            "source": str(source),
            "name": str(name),
            "validator": str(validator),
            "total": int() | None as total,
            "synced": int(synced),
            "boot": str() | None as boot,
        } if Path(name).name == name and synced >= 0:
            return Notes(source, name, validator, total, synced, boot)
    return None
