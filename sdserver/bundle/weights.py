"""Tensors of a file by name: shapes first, data only when asked for."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Protocol
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from torch import Tensor

from sdserver.bundle.safetensors_file import SafetensorsFile, Shape, open_safetensors
from sdserver.bundle.staging import Staging
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint

Shapes = Mapping[str, Shape]

_PICKLED = (".ckpt", ".pt", ".pth", ".bin")


class Weights(Protocol):
    """An open file of tensors."""

    @property
    def shapes(self) -> Shapes: ...

    def tensor(self, name: str) -> Tensor:
        """One tensor on the CPU, in the file's type; it may share the file's memory."""
        ...

    def staged(self, name: str, staging: Staging) -> Tensor:
        """The same on the staging's device; of use until the next tensor is staged."""
        ...


class SafetensorsWeights:
    """A .safetensors file."""

    def __init__(self, file: SafetensorsFile) -> None:
        self._file = file
        self.shapes: Shapes = file.shapes

    def tensor(self, name: str) -> Tensor:
        return self._file.tensor(name)

    def staged(self, name: str, staging: Staging) -> Tensor:
        return staging.sent(self._file.tensor_in(name, staging.take(self._file.bytes_of(name))))


class LoadedWeights:
    """Tensors that are in memory already, or in a mapped file."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.shapes: Shapes = MappingProxyType(
            {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        )

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def staged(self, name: str, staging: Staging) -> Tensor:
        return self._tensors[name].to(staging.device)


@contextmanager
def open_weights(path: Path, *, allow_pickle: bool) -> Iterator[Weights]:
    """Open a .safetensors file, or a pickled one if that is allowed.

    A pickle is read by torch's restricted unpickler (`weights_only`), which runs no code of the file.

    Raises:
        UnreadableCheckpoint: the file is missing, damaged, or holds other things than tensors.
        UnsupportedCheckpoint: it is a pickle and those are not allowed, or its ending is unknown.
    """
    ending = path.suffix.lower()
    if ending == ".safetensors":
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open_safetensors(path))
            except (SafetensorError, OSError) as error:
                raise UnreadableCheckpoint(_damaged(path, error)) from error
            yield SafetensorsWeights(file)
    elif ending in _PICKLED:
        if not allow_pickle:
            message = (
                f"{path.name} is a pickle, which may hold code: convert it to .safetensors or allow pickles."
            )
            raise UnsupportedCheckpoint(message)
        yield LoadedWeights(_unpickled(path))
    else:
        raise UnsupportedCheckpoint(f"{path.name} is no checkpoint: its name must end in .safetensors.")


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # Of pickle protocols that it may not understand; what it does not is an error.
            warnings.simplefilter("ignore", UserWarning)
            # Only the format since PyTorch 1.6, a zip, can be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise UnreadableCheckpoint(_damaged(path, error)) from error
    nested = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(nested, dict):
        raise UnreadableCheckpoint(f"{path.name} holds no tensors by name: it is no checkpoint.")
    return {
        name: value for name, value in nested.items() if isinstance(name, str) and isinstance(value, Tensor)
    }


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path.name} cannot be read, download it again: {reason}"
