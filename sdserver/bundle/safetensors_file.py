"""A .safetensors file, read tensor by tensor.

It is read, not mapped: pages of a mapped file count as the process' memory beside the tensors made of them,
and vanish under its feet if somebody cuts the file short.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Shape = tuple[int, ...]

_TYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH_BYTES: Final = 8
_MOST_AT_ONCE: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in the file, in bytes."""

    kind: str
    shape: Shape
    start: int
    size: int


class SafetensorsFile:
    """An open file whose header was checked.

    Attributes:
        shapes: of all tensors, by name.
    """

    def __init__(self, descriptor: int, places: dict[str, _Place]) -> None:
        self._descriptor = descriptor
        self._places = places
        self.shapes = MappingProxyType({name: place.shape for name, place in places.items()})

    def tensor(self, name: str) -> Tensor:
        """One tensor in memory of its own.

        Raises:
            OSError: the file cannot be read, or ends before the tensor does.
            SafetensorError: its numbers are of a type that is not known.
        """
        return self.tensor_in(name, torch.empty(self._places[name].size, dtype=torch.uint8))

    def bytes_of(self, name: str) -> int:
        """What a tensor takes."""
        return self._places[name].size

    def tensor_in(self, name: str, buffer: Tensor) -> Tensor:
        """One tensor in memory that is given: bytes on the CPU, `bytes_of` of them.

        Raises: as `tensor`.
        """
        place = self._places[name]
        kind = _TYPES.get(place.kind)
        if kind is None:
            raise SafetensorError(f"the tensor {name} is of the type {place.kind}, which is not known.")
        if place.size != prod(place.shape) * kind.itemsize:
            raise SafetensorError(f"the tensor {name} has another length than its shape says.")
        self._read(place, buffer)
        return buffer.view(kind).view(place.shape)

    def _read(self, place: _Place, buffer: Tensor) -> None:
        content = buffer.numpy().data
        done = 0
        while done < place.size:
            piece = content[done : done + _MOST_AT_ONCE]
            count = os.preadv(self._descriptor, [piece], place.start + done)
            if not count:
                raise OSError("the file ends too early.")
            done += count


@contextmanager
def open_safetensors(path: Path) -> Iterator[SafetensorsFile]:
    """Open a file.

    Raises:
        OSError, SafetensorError: it is missing or damaged.
    """
    with safe_open(path, framework="pt", device="cpu"):
        pass  # The library has checked the header and that the file is as long as that says.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        if hasattr(os, "posix_fadvise"):
            # Its tensors are read in the network's order, which is not the file's.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        yield SafetensorsFile(descriptor, _places(descriptor))
    finally:
        os.close(descriptor)


def _places(descriptor: int) -> dict[str, _Place]:
    length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
    header = json.loads(os.pread(descriptor, length, _LENGTH_BYTES))
    first = _LENGTH_BYTES + length
    found: dict[str, _Place] = {}
    for name, told in header.items():
        if name != "__metadata__":
            start, end = told["data_offsets"]
            found[name] = _Place(told["dtype"], tuple(told["shape"]), first + start, end - start)
    return found
