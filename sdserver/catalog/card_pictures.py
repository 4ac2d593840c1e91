"""Pictures that lie beside model files and show what they are for: `NAME.preview.png`, `NAME.png`."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

TYPES: Final[Mapping[str, str]] = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
"""The endings of such pictures and their media types."""

LARGEST: Final = 20_000_000
_LONGEST_PATH: Final = 4096
_PREVIEW: Final = ".preview"


def card_picture(model: str) -> Path | None:
    """The picture beside a model's file or folder; None if there is none. Looks at the disk: blocks."""
    base = _base(model)
    places = (Path(f"{base}{kind}{ending}") for kind in (_PREVIEW, "") for ending in TYPES)
    return next((place for place in places if _is_inside(place)), None)


def allowed(asked: str, models: Iterable[str]) -> Path | None:
    """The picture that a client names, if it is one beside one of these models. Blocks.

    Args:
        asked: a path, not to be trusted.
        models: absolute paths of files and folders.
    """
    if len(asked) > _LONGEST_PATH or "\0" in asked:
        return None
    path = Path(asked)
    if not path.is_absolute() or ".." in path.parts or path.suffix.lower() not in TYPES:
        return None
    base = str(path.with_suffix(""))
    bases = {_base(model) for model in models}
    is_beside = base in bases or base.removesuffix(_PREVIEW) in bases
    return path if is_beside and _is_inside(path) else None


def read_picture(path: Path) -> bytes | None:
    """The file's bytes; None if it is none that may be sent: too large, not a plain file, or gone. Blocks."""
    try:
        resolved = path.resolve(strict=True)
        opened = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, RuntimeError):
        return None
    with os.fdopen(opened, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            return None
        data = file.read(LARGEST + 1)
    return data if len(data) <= LARGEST else None


def _base(model: str) -> str:
    """What the names of a model's pictures begin with."""
    path = Path(model)
    return model if path.is_dir() else str(path.with_suffix(""))


def _is_inside(path: Path) -> bool:
    """Whether the file is there, and no link that leads out of its folder."""
    try:
        resolved = path.resolve(strict=True)
        return resolved.is_file() and resolved.is_relative_to(path.parent.resolve(strict=True))
    except (OSError, RuntimeError):
        return False
