"""Where model files lie: walks the models directories."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER_MARK = "model_index.json"
VAE_ENDINGS = (".vae.safetensors", ".vae.ckpt", ".vae.pt")
PICKLE_ENDINGS = (".ckpt", ".pt", ".pth", ".bin")

_NUMBER = re.compile(r"(\d+)", re.ASCII)


def is_checkpoint_file(path: Path, *, allow_pickle: bool) -> bool:
    """Whether the file's name is that of a checkpoint that may be loaded."""
    name = path.name.lower()
    if name.startswith(".") or name.endswith(VAE_ENDINGS):
        return False
    return name.endswith(".safetensors") or (allow_pickle and name.endswith(".ckpt"))


def is_pickle(path: Path) -> bool:
    """Whether the file's name is that of a format which may hold code."""
    return path.name.lower().endswith(PICKLE_ENDINGS)


def walk(root: Path, *, allow_pickle: bool) -> Iterator[Path]:
    """Checkpoint files and diffusers folders below `root`, at any depth.

    Symbolic links are followed, each directory is visited once (so loops end), hidden names and those
    that are no UTF-8 are skipped. Nothing is found in a directory that is not there.
    """
    for here, folders, files in _directories(root):
        if FOLDER_MARK in files and here != root:
            folders.clear()
            yield here
            continue
        found = (here / name for name in sorted(files))
        yield from (
            path for path in found if path.is_file() and is_checkpoint_file(path, allow_pickle=allow_pickle)
        )


def walk_files(root: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Files below `root` whose name has one of the endings (in lower case), as `walk` finds them.

    Files of a directory come before those of the ones inside it, each in natural order.
    """
    for here, _, files in _directories(root):
        names = (name for name in files if name.lower().endswith(endings))
        yield from (path for name in sorted(names, key=natural_key) if (path := here / name).is_file())


def single(paths: Iterable[Path], *, allow_pickle: bool) -> Iterator[Path]:
    """Those of the explicitly named checkpoints that are there."""
    for path in paths:
        is_file = path.is_file() and is_checkpoint_file(path, allow_pickle=allow_pickle)
        if is_file or (path / FOLDER_MARK).is_file():
            yield path


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Orders texts without regard to case, numbers inside by their value."""
    # A run too long for int() is no number that anybody counts by.
    parts = _NUMBER.split(text.lower())
    return [
        (0, int(part), "") if part.isascii() and part.isdigit() and len(part) < 20 else (1, 0, part)
        for part in parts
    ]


def _directories(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every directory below `root` once: its path, the folders to go into, its files."""
    visited: set[Path] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        here = Path(place)
        real = here.resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(filter(_is_listed, folders), key=natural_key)
        yield here, folders, [name for name in files if _is_listed(name)]


def _is_listed(name: str) -> bool:
    """Hidden names are not listed, nor those that are no UTF-8, for no answer could name them."""
    return not name.startswith(".") and name.encode("utf-8", "replace").decode() == name
