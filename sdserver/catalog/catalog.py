"""The list of checkpoints and the look-up of their names.

A name that came from outside is only ever looked up in the index built from the scanned files; it
is never made part of a path.
"""

import difflib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.hashes import HashCache, old_hash
from sdserver.catalog.scan import single, walk
from sdserver.errors import UnknownCheckpoint

log = logging.getLogger(__name__)

_CHECKSUM = re.compile(r"\s*\[[^\]]*\]\s*$")
_LONGEST_NAME_SHOWN = 100
_SUGGESTIONS = 3


class Catalog:
    """The checkpoints that are there; scanned when made and at each `refresh`.

    Safe to use from several threads.

    Args:
        models_dir: A1111's `models/Stable-diffusion`.
        hash_cache: the JSON file of known hashes.
        extra_dir: a second directory (A1111's `--ckpt-dir`).
        files: single checkpoints (A1111's `--ckpt`); one that is not there yet is taken up by a
            later refresh.
        allow_pickle: whether `.ckpt` files are listed.
    """

    def __init__(
        self,
        models_dir: Path,
        hash_cache: Path,
        extra_dir: Path | None = None,
        files: Sequence[Path] = (),
        *,
        allow_pickle: bool = False,
    ) -> None:
        self._roots = [root.absolute() for root in (extra_dir, models_dir) if root is not None]
        self._files = [file.absolute() for file in files]
        self._allow_pickle = allow_pickle
        self._hashes = HashCache(hash_cache)
        self._lock = threading.Lock()
        self._checkpoints: dict[str, Checkpoint] = {}
        self._index: dict[str, Checkpoint] = {}
        self.refresh()

    def refresh(self) -> None:
        """Scan the directories again."""
        found = {str(path): self._describe(path) for path in self._scan()}
        with self._lock:
            self._set({key: checkpoint for key, checkpoint in found.items() if checkpoint is not None})

    def all(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint, by name without regard to case."""
        return tuple(self._checkpoints.values())

    def find(self, name: str) -> Checkpoint:
        """The checkpoint of which `name` is an exact alias.

        A title whose `[hash]` belongs to a file that was not hashed yet is found by its name: titles
        gain their hash while the server runs, and clients keep the strings they saw.

        Raises:
            UnknownCheckpoint: there is none; the message names the nearest ones.
        """
        index = self._index
        checkpoint = index.get(name)
        if checkpoint is None:
            bare = index.get(_CHECKSUM.sub("", name))
            checkpoint = bare if bare is not None and bare.sha256 is None else None
        if checkpoint is None:
            raise UnknownCheckpoint(self._unknown(name))
        return checkpoint

    def find_close(self, name: str) -> Checkpoint:
        """The checkpoint that `name` means most likely: an alias, else a part of a title.

        Follows A1111: the shortest title that contains the text, with its `[hash]` or without.

        Raises:
            UnknownCheckpoint: nothing contains it, or the name is empty.
        """
        exact = self._index.get(name)
        if exact is not None:
            return exact
        for text in (name, _CHECKSUM.sub("", name)):
            holders = [checkpoint for checkpoint in self.all() if text and text in checkpoint.title]
            if holders:
                return min(holders, key=lambda checkpoint: len(checkpoint.title))
        raise UnknownCheckpoint(self._unknown(name))

    def hashed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its sha256, which is computed if it is not known.

        Reads the whole file once: call it in a worker thread. Folders are returned as they are.
        Raises OSError if the file cannot be read.
        """
        if checkpoint.is_folder:
            return checkpoint
        known = replace(checkpoint, sha256=self._hashes.compute(Path(checkpoint.filename)))
        with self._lock:
            if known.filename in self._checkpoints:
                self._set(self._checkpoints | {known.filename: known})
        return known

    def _scan(self) -> Iterator[Path]:
        yield from single(self._files, allow_pickle=self._allow_pickle)
        for root in self._roots:
            yield from walk(root, allow_pickle=self._allow_pickle)

    def _describe(self, path: Path) -> Checkpoint | None:
        """The entry of a path; None, with a warning, if the file cannot be read (any more)."""
        config = path.with_suffix(".yaml")
        try:
            is_folder = path.is_dir()
            return Checkpoint(
                filename=str(path),
                name=self._relative(path),
                old_hash=None if is_folder else old_hash(path),
                sha256=None if is_folder else self._hashes.known(path),
                config=str(config) if not is_folder and config.is_file() else None,
            )
        except OSError as error:
            log.warning("the checkpoint %s is left out: %s", path, error)
            return None

    def _relative(self, path: Path) -> str:
        for root in self._roots:
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name

    def _set(self, checkpoints: dict[str, Checkpoint]) -> None:
        """Replace the list and its index. Of two that share an alias, it means the one whose alias of
        that kind is more telling (a title beats a stem), then the first by name.
        """
        ordered = sorted(
            checkpoints.values(), key=lambda checkpoint: (checkpoint.name.lower(), checkpoint.filename)
        )
        ranked = [
            (rank, alias, checkpoint)
            for checkpoint in ordered
            for rank, alias in enumerate(checkpoint.aliases)
        ]
        index: dict[str, Checkpoint] = {}
        for _, alias, checkpoint in sorted(ranked, key=lambda row: row[0]):
            index.setdefault(alias, checkpoint)
        self._checkpoints = {checkpoint.filename: checkpoint for checkpoint in ordered}
        self._index = index

    def _unknown(self, name: str) -> str:
        shown = name if len(name) <= _LONGEST_NAME_SHOWN else name[:_LONGEST_NAME_SHOWN] + "..."
        if not self._checkpoints:
            return f"There is no checkpoint {shown!r}: none is installed; put one into {self._roots[-1]}."
        by_folded = {checkpoint.name.lower(): checkpoint for checkpoint in self.all()}
        by_folded |= {checkpoint.model_name.lower(): checkpoint for checkpoint in self.all()}
        asked = _CHECKSUM.sub("", name[:_LONGEST_NAME_SHOWN]).lower()
        close = difflib.get_close_matches(asked, by_folded, n=2 * _SUGGESTIONS, cutoff=0.4)
        near = list(dict.fromkeys(by_folded[folded].title for folded in close))[:_SUGGESTIONS]
        if near:
            return f"There is no checkpoint {shown!r}; the nearest are: {', '.join(near)}."
        return f"There is no checkpoint {shown!r}; GET /sdapi/v1/sd-models lists those there are."
