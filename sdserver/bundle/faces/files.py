"""The files of networks for faces."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdserver.bundle.memory import is_out_of_memory
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint

ModuleT = TypeVar("ModuleT", bound=nn.Module)

DAMAGES = (SafetensorError, UnpicklingError, OSError, RuntimeError, EOFError, ValueError, LookupError)
_PICKLED = (".pth", ".pt", ".ckpt", ".bin")
_PARALLEL = "module."


def read_tensors(path: Path, *, allow_pickle: bool) -> dict[str, Any]:
    """What a file holds, by name; a pickle is read by torch's restricted unpickler.

    Raises:
        UnreadableCheckpoint: it is missing or damaged.
        UnsupportedCheckpoint: it is a pickle and those are not allowed, or of another kind.
    """
    ending = path.suffix.lower()
    if ending not in (".safetensors", *_PICKLED):
        raise UnsupportedCheckpoint(f"The network {path.name} is of a kind that is not known.")
    if ending in _PICKLED and not allow_pickle:
        raise UnsupportedCheckpoint(
            f"The network {path.name} is a pickle, which may hold code: use a .safetensors file or allow"
            " pickles."
        )
    try:
        if ending == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise ValueError("it holds no tensors by name")
    except DAMAGES as error:
        raise unreadable(path, error) from error
    return dict(content)


def filled(network: type[ModuleT], path: Path, *, allow_pickle: bool) -> ModuleT:
    """A network with a file's parameters, in float32 and on the CPU; it only infers.

    Raises:
        UnreadableCheckpoint, UnsupportedCheckpoint: as `read_tensors`; or the file is another network's.
    """
    tensors = read_tensors(path, allow_pickle=allow_pickle)
    # What was trained on several devices has a prefix.
    plain = {
        name.removeprefix(_PARALLEL): value.contiguous()
        for name, value in tensors.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    with torch.device("meta"):
        empty = network()
    try:
        empty.load_state_dict(plain, strict=True, assign=True)
    except DAMAGES as error:
        raise unreadable(path, error) from error
    return empty.to(torch.float32).eval().requires_grad_(False)


def unreadable(path: Path, error: Exception) -> Exception:
    """What is raised for an error while the file was read; lack of memory stays as it is."""
    if is_out_of_memory(error):
        return error
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return UnreadableCheckpoint(f"The network {path.name} cannot be read: {reason}")
