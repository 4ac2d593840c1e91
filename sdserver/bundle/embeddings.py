"""Textual inversions: vectors that stand for a word, from files as AUTOMATIC1111 reads them.

Kinds of files:

- `string_to_param` with one tensor: the original textual inversion's and AUTOMATIC1111's own .pt;
- tensors `clip_l` and `clip_g`: for SDXL, one per text encoder;
- a single tensor of any name: diffusers' .bin, kohya's .safetensors;
- a picture with the first kind inside: see `catalog.embedding_picture`;
- a LoRA with tensors `bundle_emb.<name>.<tensor of one of these kinds>`: its names count while it is applied.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdserver.bundle.adapters.file import bundled_embeddings
from sdserver.bundle.embedding_picture import PICTURES, read_picture
from sdserver.errors import CheckpointError, UnreadableCheckpoint, UnsupportedCheckpoint, UnusableAdapter
from sdserver.jobs.model import Adapter, Embedding

_PICKLED = (".pt", ".bin")
_KEPT = 256
_SHOWN = 100
_PARAMETERS = "string_to_param"
_SDXL = ("clip_l", "clip_g")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """A textual inversion's vectors, float32 on the CPU.

    Attributes:
        tensors: each (vectors, width): one, or for SDXL one per text encoder, CLIP-L's first.
    """

    tensors: tuple[Tensor, ...]

    def fits(self, widths: Sequence[int]) -> bool:
        """Whether text encoders of these widths can take them."""
        return [tensor.shape[1] for tensor in self.tensors] == list(widths)

    @property
    def count(self) -> int:
        """How many tokens of a prompt they take; AUTOMATIC1111 counts those of SDXL's second encoder."""
        return int(self.tensors[-1].shape[0])


Bundled = Mapping[Embedding, Vectors]
"""The textual inversions inside of LoRAs; as path they have the LoRA's, a slash, and their name."""


class EmbeddingFiles:
    """Reads files of textual inversions, and keeps the last ones until they change.

    Args:
        allow_pickle: whether .pt and .bin files may be read (weights only).
    """

    def __init__(self, *, allow_pickle: bool) -> None:
        self._allow_pickle = allow_pickle
        self._kept: _Kept[Vectors] = _Kept("embedding", UnreadableCheckpoint)
        self._bundled: _Kept[Bundled] = _Kept("adapter", UnusableAdapter)

    def read(self, path: str) -> Vectors:
        """The vectors of a file.

        Raises:
            UnreadableCheckpoint: missing, damaged, or no textual inversion.
            UnsupportedCheckpoint: it is a pickle and those are not allowed, or of an unknown kind.
        """
        return self._kept.of(path, lambda file: read_vectors(file, allow_pickle=self._allow_pickle))

    def bundled(self, adapters: Iterable[Adapter]) -> Bundled:
        """The textual inversions inside the LoRAs among adapters, in order.

        Raises:
            UnusableAdapter: a file is missing or damaged, or holds something else under their names.
        """
        paths = dict.fromkeys(adapter.path for adapter in adapters if adapter.kind == "lora")
        found: dict[Embedding, Vectors] = {}
        for path in paths:
            found |= self._bundled.of(path, lambda file: read_bundled(file, allow_pickle=self._allow_pickle))
        return found


class _Kept(Generic[T]):
    """What was read from the files asked for last, until they change."""

    def __init__(self, kind: str, error: type[CheckpointError]) -> None:
        self._kind = kind
        self._error = error
        self._read: OrderedDict[str, tuple[tuple[int, int], T]] = OrderedDict()

    def of(self, path: str, read: Callable[[Path], T]) -> T:
        """What the file holds; raises the error if there is none, and what `read` raises."""
        try:
            status = Path(path).stat()
        except OSError as error:
            message = f"The {self._kind} {Path(path).name} cannot be read: {error.strerror}"
            raise self._error(message) from error
        stamp = (status.st_mtime_ns, status.st_size)
        if path not in self._read or self._read[path][0] != stamp:
            self._read[path] = stamp, read(Path(path))
        self._read.move_to_end(path)
        while len(self._read) > _KEPT:
            self._read.popitem(last=False)
        return self._read[path][1]


def read_vectors(path: Path, *, allow_pickle: bool) -> Vectors:
    """The vectors of a file; see `EmbeddingFiles.read` for the errors."""
    ending = path.suffix.lower()
    if ending in _PICKLED and not allow_pickle:
        raise UnsupportedCheckpoint(f"The embedding {path.name} is a pickle, and pickles are not allowed.")
    try:
        if ending == ".safetensors":
            return _vectors(load_file(path))
        if ending in _PICKLED:
            return _vectors(_unpickled(path))
        if ending in PICTURES:
            return _vectors(read_picture(path))
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableCheckpoint(f"The embedding {path.name} cannot be read: {reason}") from error
    raise UnsupportedCheckpoint(f"The embedding {path.name} is of a kind that is not known.")


def read_bundled(path: Path, *, allow_pickle: bool) -> Bundled:
    """The textual inversions inside a LoRA; see `EmbeddingFiles.bundled` for the errors."""
    found: dict[Embedding, Vectors] = {}
    for name, parts in bundled_embeddings(path, allow_pickle=allow_pickle).items():
        content: dict[str, Any] = {}
        for part, tensor in parts.items():
            kind, _, inner = part.partition(".")
            content |= {kind: {inner: tensor}} if kind == _PARAMETERS else {part: tensor}
        try:
            found[Embedding(name, f"{path}/{name}")] = _vectors(content)
        except ValueError as error:
            message = f"{path.name} cannot be used, its embedding {name[:_SHOWN]!r} is damaged: {error}"
            raise UnusableAdapter(message) from error
    return found


def _unpickled(path: Path) -> Any:
    """The original files hold their tensor in torch's ParameterDict."""
    with torch.serialization.safe_globals([nn.ParameterDict]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _vectors(content: Any) -> Vectors:
    if not isinstance(content, Mapping):
        raise ValueError("it holds no dictionary")
    if _PARAMETERS in content:
        parameters = content[_PARAMETERS]
        return Vectors((_single(dict(parameters.items()) if hasattr(parameters, "items") else {}),))
    if all(name in content for name in _SDXL):
        return Vectors(tuple(_matrix(content[name]) for name in _SDXL))
    return Vectors((_single(content),))


def _single(content: Mapping[Any, Any]) -> Tensor:
    if len(content) != 1:
        raise ValueError("it holds no textual inversion, or several")
    (value,) = content.values()
    return _matrix(value)


def _matrix(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.numel():
        raise ValueError("it holds no textual inversion")
    matrix = value.detach().to(torch.float32)
    return matrix.unsqueeze(0) if matrix.ndim == 1 else matrix
