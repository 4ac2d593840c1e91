"""Saving pictures where AUTOMATIC1111 saves them: `outputs/txt2img-images/DATE/00000-SEED.png`."""

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdserver.images.naming import NameFacts, expand

MAX_NAME_BYTES = 200
HISTORY = "params.txt"
_UNSAFE_END = " ."
_SEPARATORS = re.compile(r"[/\\]")
_COUNTER = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class SaveRules:
    """The options that decide where a picture goes and what it is called.

    Attributes:
        directory: below the data folder, such as `outputs/txt2img-images`.
        directory_pattern: sub-folder, such as `[date]`; empty for none.
        name_pattern: such as `[seed]`; empty for the counter alone.
        prefix: before the counter: `grid` for grids, empty for pictures.
        numbered: put a counter before the name.
        replace: without a counter, overwrite; otherwise a number is put behind the name.
        write_text: put the infotext into a .txt file beside the picture.
        suffix: behind the name, such as `-mask`.
    """

    directory: str
    directory_pattern: str
    name_pattern: str
    prefix: str
    numbered: bool
    replace: bool
    write_text: bool
    suffix: str = ""


OnSaved = Callable[[Path, str], str | None]
"""Is told a picture's file and its format's extension, whole on the disk but not under its name yet. Answers
with a sentence if it cannot do with it what it is there for. Does not raise."""


class Saver:
    """Writes picture files below one folder and never outside it. Safe to use from several threads.

    Symbolic links in that folder are followed: only the operator can have put them there.

    Args:
        data_dir: the folder that holds `outputs`.
        keeps_history: write the latest infotext to `params.txt` in the data folder.
        on_saved: told of every picture, right before it takes its name; nothing saved stays untold, whenever
            the process is killed.
    """

    def __init__(
        self, data_dir: Path, *, keeps_history: bool = True, on_saved: OnSaved | None = None
    ) -> None:
        self._on_saved = on_saved
        self._keeps_history = keeps_history
        self._data_dir = data_dir.resolve()
        self._outputs = self._data_dir / "outputs"
        self._lock = threading.Lock()

    def folder(self, directory: str) -> Path:
        """The absolute path of an output folder given relative to the data folder.

        Raises:
            ValueError: it does not lie in `outputs`.
        """
        path = Path(os.path.normpath(self._data_dir / directory))
        if "\0" in directory or not path.is_relative_to(self._outputs):
            raise ValueError(f"The folder {directory!r} is not inside {str(self._outputs)!r}.")
        return path

    def save(
        self,
        data: bytes,
        extension: str,
        rules: SaveRules,
        facts: NameFacts,
        infotext: str | None,
        problems: list[str] | None = None,
    ) -> Path:
        """Write a picture, and its infotext if the rules say so. Nobody ever sees half a file.

        Args:
            data: the file.
            extension: its format's.
            rules: where it goes.
            facts: what its name may tell.
            infotext: for a file beside it.
            problems: is given what `on_saved` says.

        Raises:
            ValueError: the folder lies outside `outputs`.
            OSError: the disk is full, or writing is not allowed.
        """
        folder = self.folder(rules.directory)
        *parents, name = _components(expand(rules.name_pattern, facts)) or [""]
        folder = folder.joinpath(*_components(expand(rules.directory_pattern, facts)), *parents)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = _write_temporary(folder, data)
        try:
            self._tell(temporary, extension, problems)
            with self._lock:
                path = _free_path(folder, name, extension, rules)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if rules.write_text and infotext is not None:
            _write_temporary(folder, f"{infotext}\n".encode()).replace(path.with_suffix(".txt"))
        return path

    def save_copy(self, path: Path, data: bytes, extension: str, problems: list[str] | None = None) -> None:
        """Write a saved picture once more beside it, in another format.

        Args:
            path: what `save` answered.
            data: the other file.
            extension: its format's.
            problems: as for `save`.

        Raises:
            OSError: as for `save`.
        """
        temporary = _write_temporary(path.parent, data)
        self._tell(temporary, extension, problems)
        temporary.replace(path.with_suffix(f".{extension}"))

    def _tell(self, path: Path, extension: str, problems: list[str] | None) -> None:
        problem = self._on_saved(path, extension) if self._on_saved else None
        if problem and problems is not None:
            problems.append(problem)

    def remember(self, infotext: str) -> None:
        """Keep what was made last, in `params.txt` as AUTOMATIC1111 does.

        Raises:
            OSError: it cannot be written.
        """
        if self._keeps_history:
            _write_temporary(self._data_dir, infotext.encode(), is_kept=False).replace(
                self._data_dir / HISTORY
            )


def next_counter(folder: Path, prefix: str) -> int:
    """One more than the greatest number that a file name in the folder begins with; 0 if none does."""
    start = f"{prefix}-" if prefix else ""
    greatest = -1
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(start):
                number = re.split(r"[-.]", entry.name.removeprefix(start), maxsplit=1)[0]
                if _COUNTER.fullmatch(number):
                    greatest = max(greatest, int(number))
    return greatest + 1


def _components(text: str) -> list[str]:
    """A pattern's result as safe names, one per level: no dots alone, nothing too long."""
    names = [part.strip(" ").rstrip(_UNSAFE_END) for part in _SEPARATORS.split(text)]
    return [
        name.replace("\0", "_").encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        for name in names
        if name.strip(_UNSAFE_END)
    ]


def _free_path(folder: Path, name: str, extension: str, rules: SaveRules) -> Path:
    if rules.numbered or not name:
        number = next_counter(folder, rules.prefix)
        counter = f"{rules.prefix}-{number:04}" if rules.prefix else f"{number:05}"
        return folder / f"{counter}{'-' if name else ''}{name}{rules.suffix}.{extension}"
    name += rules.suffix
    path = folder / f"{name}.{extension}"
    number = 0
    while not rules.replace and path.exists():
        number += 1
        path = folder / f"{name}-{number}.{extension}"
    return path


def _write_temporary(folder: Path, data: bytes, *, is_kept: bool = True) -> Path:
    """The data in a new file of the folder, safely on the disk if it is to outlive a power cut."""
    path = folder / f".{os.urandom(8).hex()}.tmp"
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            if is_kept:
                os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path
