"""All that a file of tensors holds: the tensors by name, and what else is written beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint

PICKLED: Final = (".pt", ".pth", ".bin", ".ckpt")
SAFE: Final = ".safetensors"

_DAMAGES = (SafetensorError, UnpicklingError, OSError, RuntimeError, EOFError, ValueError, LookupError)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds.

    Attributes:
        tensors: by name, on the CPU.
        others: what a pickle holds beside them by name; the metadata of a .safetensors file, all texts.
    """

    tensors: Mapping[str, Tensor]
    others: Mapping[str, Any]


def read_content(path: Path, *, allow_pickle: bool, inside: str = "") -> Content:
    """Read a file whole; a pickle by torch's restricted unpickler (`weights_only`), which runs no code.

    Args:
        path: a .safetensors file or a pickle.
        allow_pickle: whether pickles may be read.
        inside: name of the mapping in the pickle that holds the tensors, if there is one of that name.

    Raises:
        UnreadableCheckpoint: the file is missing, damaged, or holds no tensors by name.
        UnsupportedCheckpoint: it is a pickle and those are not allowed, or its ending is unknown.
    """
    check_pickle(path, allow_pickle=allow_pickle)
    try:
        return _safe(path) if path.suffix.lower() == SAFE else _pickled(path, inside)
    except _DAMAGES as error:
        raise damaged(path, error) from error


def check_pickle(path: Path, *, allow_pickle: bool) -> None:
    """Refuse endings that are not read.

    Raises:
        UnsupportedCheckpoint: it is a pickle and those are not allowed, or its ending is unknown.
    """
    ending = path.suffix.lower()
    if ending in PICKLED and not allow_pickle:
        raise UnsupportedCheckpoint(
            f"{path.name} is a pickle, which may hold code: start the server with --allow-pickle, or convert"
            " the file to .safetensors."
        )
    if ending not in (*PICKLED, SAFE):
        raise UnsupportedCheckpoint(f"{path.name} is of an unknown kind: its name must end in .safetensors.")


def damaged(path: Path, error: Exception) -> UnreadableCheckpoint:
    """What to raise for a file that cannot be read."""
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return UnreadableCheckpoint(f"{path.name} cannot be read, download it again: {reason}")


def _safe(path: Path) -> Content:
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        return Content(tensors, file.metadata() or {})


def _pickled(path: Path, inside: str) -> Content:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and isinstance(content.get(inside), Mapping):
        content = content[inside]
    if not isinstance(content, Mapping):
        raise UnreadableCheckpoint(f"{path.name} holds no tensors by name: download it again.")
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    return Content(
        {name: value for name, value in named.items() if isinstance(value, Tensor)},
        {name: value for name, value in named.items() if not isinstance(value, Tensor)},
    )
