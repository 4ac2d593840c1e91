"""The pictures that were saved: listed, sought, shown small, packed, removed."""

import io
import os
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Final

from PIL import Image

from sdserver.errors import UnknownPicture
from sdserver.images.metadata import MAX_PIXELS, Metadata, read_metadata

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif"})
SIDECARS: Final = (".txt",)
"""What `save_txt` puts beside a picture."""

THUMBNAIL_SIDE: Final = 256
THUMBNAIL_QUALITY: Final = 80
LARGEST_FILE: Final = 256 * 10**6
MISSING: Final = "There is no saved picture of that name."
MAX_KNOWN: Final = 50_000
"""Pictures whose texts are remembered."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file.

    Attributes:
        name: below the folder, with slashes.
        modified: seconds since 1970.
        size: in bytes.
    """

    name: str
    modified: float
    size: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A file and what it says of itself.

    Attributes:
        infotext: None if it has none, or cannot be read.
        width, height: 0 where it cannot be read.
    """

    saved: Saved
    infotext: str | None
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list.

    Attributes:
        shown: the newest first.
        after: ask for what comes after this name; None at the end.
    """

    shown: tuple[Shown, ...]
    after: str | None


class Gallery:
    """The pictures below a folder. Everything blocks: call it in worker threads, of any number.

    Links are not followed, and nothing outside the folder is ever touched.

    Args:
        root: the folder; it need not exist.
        thumbnail_bytes: memory for thumbnails.
        clock: seconds, monotonic.
    """

    def __init__(
        self, root: Path, thumbnail_bytes: int = 32 * 10**6, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._clock = clock
        self._lock = Lock()
        self._facts: OrderedDict[Saved, Shown] = OrderedDict()
        self._thumbnails: OrderedDict[Saved, bytes] = OrderedDict()
        self._thumbnail_bytes = thumbnail_bytes

    def page(self, search: str, limit: int, after: str | None, seconds: float = 2.0) -> Page:
        """The newest pictures whose infotext or name has every word of the search.

        Args:
            search: words, in any case; empty for all pictures.
            limit: at most so many.
            after: where the page before ended, None at first.
            seconds: after which it ends early, for texts may have to be read from many files.

        Raises:
            UnknownPicture: `after` is not there (any more).
        """
        words = search.lower().split()
        files = sorted(self._files(), key=lambda file: (-file.modified, file.name))
        if after is not None:
            names = [file.name for file in files]
            if after not in names:
                raise UnknownPicture(MISSING)
            files = files[names.index(after) + 1 :]
        found: list[Shown] = []
        until = self._clock() + seconds
        for place, file in enumerate(files, start=1):
            shown = self._shown(file)
            text = f"{file.name}\n{shown.infotext or ''}".lower()
            if all(word in text for word in words):
                found.append(shown)
            if place < len(files) and (len(found) == limit or self._clock() > until):
                return Page(tuple(found), file.name)
        return Page(tuple(found), None)

    def find(self, name: str) -> Path:
        """A picture's file.

        Raises:
            UnknownPicture: there is none of that name.
        """
        parts = name.split("/")
        is_plain = all(part not in {"", ".", ".."} and not part.startswith(".") for part in parts)
        if "\0" in name or "\\" in name or not is_plain or PurePosixPath(name).suffix.lower() not in SUFFIXES:
            raise UnknownPicture(MISSING)
        path = self._root.joinpath(*parts)
        try:
            is_there = path.is_file() and path.resolve() == self._root.resolve().joinpath(*parts)
        except OSError:
            is_there = False
        if not is_there:
            raise UnknownPicture(MISSING)
        return path

    def thumbnail(self, name: str) -> bytes:
        """A picture as WebP, at most 256 pixels a side.

        Raises:
            UnknownPicture: there is none of that name, or it cannot be read.
        """
        path = self.find(name)
        facts = path.stat()
        file = Saved(name, facts.st_mtime, facts.st_size)
        with self._lock:
            known = self._thumbnails.get(file)
            if known is not None:
                self._thumbnails.move_to_end(file)
                return known
        made = _thumbnail(path)
        with self._lock:
            self._thumbnails[file] = made
            while sum(map(len, self._thumbnails.values())) > self._thumbnail_bytes:
                self._thumbnails.popitem(last=False)
        return made

    def remove(self, name: str) -> None:
        """Delete a picture, and the text beside it.

        Raises:
            UnknownPicture: there is none of that name.
            OSError: it cannot be deleted.
        """
        path = self.find(name)
        path.unlink()
        for suffix in SIDECARS:
            path.with_suffix(suffix).unlink(missing_ok=True)

    def packed(self, names: Sequence[str]) -> Iterator[bytes]:
        """A zip of pictures, in parts.

        Raises:
            UnknownPicture: one is not there; before the first part.
        """
        paths = [(name, self.find(name)) for name in names]

        def parts() -> Iterator[bytes]:
            pipe = _Pipe()
            with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
                for name, path in paths:
                    archive.write(path, name)
                    yield pipe.take()
            yield pipe.take()

        return parts()

    def _files(self) -> Iterator[Saved]:
        for folder, _, names in os.walk(self._root):
            for name in names:
                if name.startswith(".") or PurePosixPath(name).suffix.lower() not in SUFFIXES:
                    continue
                path = Path(folder, name)
                try:
                    facts = path.lstat()
                except OSError:
                    continue
                if path.is_symlink() or not path.is_file():
                    continue
                yield Saved(path.relative_to(self._root).as_posix(), facts.st_mtime, facts.st_size)

    def _shown(self, file: Saved) -> Shown:
        with self._lock:
            known = self._facts.get(file)
        if known is not None:
            return known
        metadata = _metadata(self._root.joinpath(*file.name.split("/")), file.size)
        shown = Shown(file, None, 0, 0)
        if metadata is not None:
            shown = Shown(file, metadata.infotext, metadata.width, metadata.height)
        with self._lock:
            self._facts[file] = shown
            while len(self._facts) > MAX_KNOWN:
                self._facts.popitem(last=False)
        return shown


class _Pipe:
    """Where a zip is written to: it cannot be sought, so nothing but the current part is in memory."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """There is nothing to close."""

    def take(self) -> bytes:
        """What was written since the last call."""
        taken, self._parts = b"".join(self._parts), []
        return taken


def _metadata(path: Path, size: int) -> Metadata | None:
    if size > LARGEST_FILE:
        return None
    try:
        return read_metadata(path.read_bytes())
    except (OSError, ValueError):
        return None


def _thumbnail(path: Path) -> bytes:
    buffer = io.BytesIO()
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP", "AVIF")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnknownPicture(MISSING)
            image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            image.convert("RGB").save(buffer, "WEBP", quality=THUMBNAIL_QUALITY)
    except (OSError, ValueError, SyntaxError) as error:
        raise UnknownPicture(MISSING) from error
    return buffer.getvalue()
