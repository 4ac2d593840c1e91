"""Tensors of a TorchScript archive, as OpenAI published CLIP; none of the programs in it is looked at.

torch's own reader of such archives runs what they hold. Here the tree of modules is read by an unpickler
that knows records of tensors and nothing else, and the tensors' bytes are taken from the archive.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sdserver.bundle.content import damaged

_STORAGES: Final = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}
_CODE: Final = "__torch__"
_MARK: Final = "/constants.pkl"
_LONGEST_TREE: Final = 64 << 20
_DEEPEST: Final = 30


def is_script_archive(path: Path) -> bool:
    """Whether the file is a TorchScript archive; False where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith(_MARK) for name in file.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_script_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of the archive's modules, by the names that a state dict would have.

    Raises:
        UnreadableCheckpoint: the file is missing or damaged, or its tree holds other things than modules,
            tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as file:
            root = next(name for name in file.namelist() if name.endswith(_MARK)).removesuffix(_MARK)
            if file.getinfo(f"{root}/data.pkl").file_size > _LONGEST_TREE:
                raise ValueError("its tree of modules is too large")
            tree = _Reader(io.BytesIO(file.read(f"{root}/data.pkl"))).load()
            return {name: _tensor(file, root, record) for name, record in _records(tree, "", 0)}
    except Exception as error:
        # Archives and pickles that are damaged, or lie, fail in ways of many kinds.
        raise damaged(path, error) from error


class _Module:
    """A module of the archive: its parts by name."""

    def __init__(self) -> None:
        self.parts: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        self.parts = dict(state) if isinstance(state, dict) else {}


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True)
class _Record:
    """Where a tensor's numbers lie."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _record(storage: _Storage, offset: int, size: object, stride: object, *_rest: object) -> _Record:
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise pickle.UnpicklingError("it describes a tensor wrongly")
    return _Record(storage, offset, size, stride)


def _values(values: object = ()) -> object:
    return values


class _Reader(pickle._Unpickler):
    """Makes records only: no name of the file leads to anything that could do more.

    It is the unpickler in Python, for that in C reserves as much memory as a file says.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module == _CODE or module.startswith(f"{_CODE}."):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _record
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle":
            return _values
        raise pickle.UnpicklingError(f"it holds {module[:50]}.{name[:50]}, which is no tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, _, int() as count):
                return _Storage(key, dtype, count)
        raise pickle.UnpicklingError("it refers to something that is no storage")


def _records(part: object, before: str, depth: int) -> Iterator[tuple[str, _Record]]:
    """The tensors at and below a part, each with its name."""
    if depth > _DEEPEST:
        raise ValueError("its modules lie too deep in each other")
    if not isinstance(part, _Module):
        return
    for name, inner in part.parts.items():
        if isinstance(inner, _Record):
            yield f"{before}{name}", inner
        else:
            yield from _records(inner, f"{before}{name}.", depth + 1)


def _tensor(file: zipfile.ZipFile, root: str, record: _Record) -> Tensor:
    storage = record.storage
    info = file.getinfo(f"{root}/data/{storage.key}")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < storage.count * storage.dtype.itemsize:
        raise ValueError("a tensor's numbers are cut short or packed")
    sound = all(step >= 0 for step in (record.offset, *record.size, *record.stride))
    if not sound or math.prod(record.size) > storage.count:
        raise ValueError("it describes a tensor wrongly")
    numbers = torch.frombuffer(bytearray(file.read(info)), dtype=storage.dtype)
    return numbers.as_strided(record.size, record.stride, record.offset)
