"""sha256 of model files, remembered by path, time of change and size."""

import hashlib
import json
import logging
import os
import re
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAMPLE_START, _SAMPLE_LENGTH = 0x100000, 0x10000
_LENGTH_BYTES = 8

Part = Literal["file", "tensors"]
"""What of a file is hashed: all, or of a safetensors file only what stands behind its header."""


@dataclass(frozen=True, slots=True)
class _Entry:
    mtime_ns: int
    size: int
    sha256: str


class HashCache:
    """The known hashes, kept in one JSON file that is replaced as a whole.

    Safe to use from several threads; a file is hashed by one of them at a time.

    Args:
        path: the JSON file; it and its directory are made when first needed. A damaged one counts
            as empty, with a warning, since all it holds can be computed again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        self._entries = _read(path)

    def known(self, file: Path, part: Part = "file") -> str | None:
        """The file's sha256 if it was computed before and the file is unchanged since."""
        status = file.stat()
        with self._lock:
            entry = self._entries.get(_key(file, part))
        if entry is None or (entry.mtime_ns, entry.size) != (status.st_mtime_ns, status.st_size):
            return None
        return entry.sha256

    def compute(self, file: Path, part: Part = "file") -> str:
        """The file's sha256: read once (seconds for gigabytes), then remembered. Raises OSError."""
        with self._hashing:
            remembered = self.known(file, part)
            if remembered is not None:
                return remembered
            status = file.stat()
            with file.open("rb") as stream:
                if part == "tensors":
                    _skip_header(stream)
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            with self._lock:
                self._entries[_key(file, part)] = _Entry(status.st_mtime_ns, status.st_size, digest)
                entries = dict(self._entries)
            _write(self._path, entries)
            return digest


def old_hash(file: Path) -> str:
    """A1111's first kind of hash: 8 hex digits of the sha256 of 64 KiB at 1 MiB. Raises OSError."""
    with file.open("rb") as stream:
        stream.seek(_SAMPLE_START)
        return hashlib.sha256(stream.read(_SAMPLE_LENGTH)).hexdigest()[:8]


def _key(file: Path, part: Part) -> str:
    return str(file) if part == "file" else f"{part}:{file}"


def _skip_header(stream: BinaryIO) -> None:
    """Go to where a safetensors file's tensors begin; one that has no such place has none."""
    length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
    size = stream.seek(0, os.SEEK_END)
    stream.seek(min(_LENGTH_BYTES + length, size))


def _read(path: Path) -> dict[str, _Entry]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        log.warning("the hash cache %s is damaged and begins anew: %s", path, error)
        return {}
    rows = content.items() if isinstance(content, dict) else ()
    entries = ((name, _entry(row)) for name, row in rows)
    return {name: entry for name, entry in entries if entry is not None}


def _entry(row: Any) -> _Entry | None:
    match row:
        case {"mtime_ns": int(mtime_ns), "size": int(size), "sha256": str(sha256)} if _SHA256.fullmatch(
            sha256
        ):
            return _Entry(mtime_ns, size, sha256)
        case _:
            return None


def _write(path: Path, entries: dict[str, _Entry]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(entry) for name, entry in sorted(entries.items())}, indent=1)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
