"""Textual inversions: vectors that stand for a word, from files as AUTOMATIC1111 reads them.

Kinds of files:

- `string_to_param` with one tensor: the original textual inversion's and AUTOMATIC1111's own .pt;
- tensors `clip_l` and `clip_g`: for SDXL, one per text encoder;
- a single tensor of any name: diffusers' .bin, kohya's .safetensors;
- a picture with the first kind inside: see `embedding_picture`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sdserver.bundle.embedding_picture import PICTURES, read_picture
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint

_PICKLED = (".pt", ".bin")
_KEPT = 256
_SDXL = ("clip_l", "clip_g")


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


class EmbeddingFiles:
    """Reads files of textual inversions, and keeps the last ones until they change.

    Args:
        allow_pickle: whether .pt and .bin files may be read (weights only).
    """

    def __init__(self, *, allow_pickle: bool) -> None:
        self._allow_pickle = allow_pickle
        self._kept: OrderedDict[str, tuple[tuple[int, int], Vectors]] = OrderedDict()

    def read(self, path: str) -> Vectors:
        """The vectors of a file.

        Raises:
            UnreadableCheckpoint: missing, damaged, or no textual inversion.
            UnsupportedCheckpoint: it is a pickle and those are not allowed, or of an unknown kind.
        """
        try:
            status = Path(path).stat()
        except OSError as error:
            raise UnreadableCheckpoint(f"The embedding {Path(path).name} cannot be read: {error}") from error
        stamp = (status.st_mtime_ns, status.st_size)
        if path not in self._kept or self._kept[path][0] != stamp:
            self._kept[path] = stamp, read_vectors(Path(path), allow_pickle=self._allow_pickle)
        self._kept.move_to_end(path)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[path][1]


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


def _unpickled(path: Path) -> Any:
    """The original files hold their tensor in torch's ParameterDict."""
    with torch.serialization.safe_globals([nn.ParameterDict]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _vectors(content: Any) -> Vectors:
    if not isinstance(content, Mapping):
        raise ValueError("it holds no dictionary")
    if "string_to_param" in content:
        parameters = content["string_to_param"]
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
