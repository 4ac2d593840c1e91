"""Where checkpoints lie: walks the models directories."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER_MARK = "model_index.json"
_VAE_ENDINGS = (".vae.safetensors", ".vae.ckpt", ".vae.pt")


def is_checkpoint_file(path: Path, *, allow_pickle: bool) -> bool:
    """Whether the file's name is that of a checkpoint that may be loaded."""
    name = path.name.lower()
    if name.startswith(".") or name.endswith(_VAE_ENDINGS):
        return False
    return name.endswith(".safetensors") or (allow_pickle and name.endswith(".ckpt"))


def walk(root: Path, *, allow_pickle: bool) -> Iterator[Path]:
    """Checkpoint files and diffusers folders below `root`, at any depth.

    Symbolic links are followed, each directory is visited once (so loops end), hidden names are
    skipped. Nothing is found in a directory that is not there.
    """
    visited: set[Path] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        here = Path(place)
        real = here.resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if FOLDER_MARK in files and here != root:
            folders.clear()
            yield here
            continue
        found = (here / name for name in sorted(files))
        yield from (
            path for path in found if path.is_file() and is_checkpoint_file(path, allow_pickle=allow_pickle)
        )


def single(paths: Iterable[Path], *, allow_pickle: bool) -> Iterator[Path]:
    """Those of the explicitly named checkpoints that are there."""
    for path in paths:
        is_file = path.is_file() and is_checkpoint_file(path, allow_pickle=allow_pickle)
        if is_file or (path / FOLDER_MARK).is_file():
            yield path
