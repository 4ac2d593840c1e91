"""Which file came from which source, so that the next start needs no network."""

import hashlib
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

from sdserver.errors import DownloadError
from sdserver.ops.downloads.content import check_safetensors, sha256_of
from sdserver.ops.downloads.disk import read_json, sync_folder, write_json
from sdserver.ops.downloads.lock import brief_lock

logger = logging.getLogger(__name__)

FOLDER = ".downloads"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that was fetched. Holds no secret.

    Attributes:
        name: in the models' folder.
        size: in bytes.
        source: the address, for people.
    """

    name: str
    size: int
    sha256: str
    source: str


class Index:
    """The list `.downloads/index.json` in a folder of models."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.folder = directory / FOLDER
        self._path = self.folder / "index.json"
        self._lock = self.folder / "index.lock"

    def find(self, key: str, sha256: str | None) -> Path | None:
        """The file of a source, if it is there, whole, and has the digest asked for."""
        entry = _entry(read_json(self._path).get(key))
        if entry is None or (sha256 is not None and sha256 != entry.sha256):
            return None
        path = self.directory / entry.name
        if not path.is_file() or path.stat().st_size != entry.size:
            return None
        try:
            check_safetensors(path)
        except DownloadError as error:
            logger.warning("%s is fetched again: %s", entry.name, error)
            return None
        return path

    def add(self, key: str, entry: Entry) -> None:
        """Note that a source's file is there."""
        with brief_lock(self._lock):
            self._write(key, entry)

    def place(self, key: str, part: Path, entry: Entry, cancelled: Event) -> Path:
        """Give a finished file its name, or one beside it where another file has that, and note it.

        Returns:
            Where the file is now.
        """
        with brief_lock(self._lock):
            target = self.directory / entry.name
            if target.exists() and not _same(target, entry, cancelled):
                stem = Path(entry.name).stem
                target = self.directory / f"{stem}-{entry.sha256[:8]}.safetensors"
            # Noted first: after a crash in between, the part is still there and whole.
            self._write(key, Entry(target.name, entry.size, entry.sha256, entry.source))
            part.replace(target)
            sync_folder(self.directory)
        return target

    def _write(self, key: str, entry: Entry) -> None:
        write_json(self._path, read_json(self._path) | {key: asdict(entry)})


def _same(path: Path, entry: Entry, cancelled: Event) -> bool:
    return path.stat().st_size == entry.size and sha256_of(path, cancelled) == entry.sha256


def _entry(fields: object) -> Entry | None:
    match fields:
        case {"name": str(name), "size": int(size), "sha256": str(sha256), "source": str(source)}:
            if Path(name).name == name and len(sha256) == hashlib.sha256().digest_size * 2:
                return Entry(name, size, sha256, source)
    return None
