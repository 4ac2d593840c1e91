"""What was loaded from files last, until the files change or something else is loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from sdserver.errors import UnreadableCheckpoint

Loaded = TypeVar("Loaded")

Stamp = tuple[tuple[str, int, int], ...]


def stamp_of(what: str, places: Sequence[Path]) -> Stamp:
    """Changes when one of the files does, or a file in one of the folders.

    Raises:
        UnreadableCheckpoint: a place is not there; the sentence begins with `what`.
    """
    try:
        files = [
            path
            for place in places
            for path in (place.iterdir() if place.is_dir() else [place])
            if not path.is_dir()
        ]
        found = [(str(path), path.stat()) for path in files]
    except OSError as error:
        raise UnreadableCheckpoint(f"{what} cannot be read: {error}") from error
    return tuple(sorted((name, status.st_mtime_ns, status.st_size) for name, status in found))


class LastUsed(Generic[Loaded]):
    """Holds one thing; what was there is dropped before another is loaded."""

    def __init__(self) -> None:
        self._held: tuple[Stamp, Loaded] | None = None

    def get(self, stamp: Stamp, load: Callable[[], Loaded]) -> Loaded:
        """What these files hold, loaded now unless it is what was used last."""
        if self._held is None or self._held[0] != stamp:
            self._held = None
            self._held = stamp, load()
        return self._held[1]

    def clear(self) -> None:
        """Drop it, to make room on the device."""
        self._held = None
