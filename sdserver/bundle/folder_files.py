"""The files of one network of a diffusers folder, and the names of its tensors there."""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn

from sdserver.bundle.convert import Source, Sources
from sdserver.bundle.staging import Staging
from sdserver.bundle.weights import Shapes, Weights, open_weights
from sdserver.errors import UnreadableCheckpoint

_BASES: Final = ("diffusion_pytorch_model", "model")
_PART: Final = r"(-\d{5}-of-\d{5})?"
# Older folders name the parts of the autoencoder's attention so.
_OLD_ATTENTION: Final = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_TEXT: Final = "text_model."


def weight_files(path: Path) -> list[Path]:
    """A network's files: the plain ones, else those in fp16; several where it was saved in parts.

    Raises:
        UnreadableCheckpoint: there are none, or only pickles.
    """
    names = sorted(file.name for file in path.glob("*.safetensors"))
    for variant in ("", ".fp16"):
        for base in _BASES:
            patterns = (f"{base}{variant}{_PART}", f"{base}{_PART}{variant}")
            found = [
                name
                for name in names
                if any(re.fullmatch(pattern + r"\.safetensors", name) for pattern in patterns)
            ]
            if found:
                return [path / name for name in found]
    raise UnreadableCheckpoint(f"{path} cannot be read: it has no file {_BASES[0]}.safetensors.")


def open_several(paths: Sequence[Path], stack: ExitStack) -> Weights:
    """Open files that make up one network, until the stack closes them.

    Raises:
        UnreadableCheckpoint: one is damaged.
    """
    opened = [stack.enter_context(open_weights(path, allow_pickle=False)) for path in paths]
    return opened[0] if len(opened) == 1 else _Several(opened)


class _Several:
    """Files as one."""

    def __init__(self, files: Sequence[Weights]) -> None:
        self._of: Mapping[str, Weights] = {name: file for file in files for name in file.shapes}
        self.shapes: Shapes = MappingProxyType({name: file.shapes[name] for name, file in self._of.items()})

    def tensor(self, name: str) -> Tensor:
        return self._of[name].tensor(name)

    def staged(self, name: str, staging: Staging) -> Tensor:
        return self._of[name].staged(name, staging)


def folder_sources(network: nn.Module, names: frozenset[str]) -> Sources:
    """Where the folder has each tensor of a network; those that it lacks are left out."""
    found: dict[str, Source] = {}
    for name in network.state_dict():
        known = next((other for other in _other_names(name) if other in names), None)
        if known is not None:
            found[name] = Source(known)
    return found


def _other_names(name: str) -> list[str]:
    """A tensor's name now, and those that it has had."""
    layer, _, kind = name.rpartition(".")
    old = next(
        (
            f"{layer.removesuffix(new)}{before}.{kind}"
            for new, before in _OLD_ATTENTION.items()
            if layer.endswith(f".{new}")
        ),
        name,
    )
    return [name, old, _TEXT + name, name.removeprefix(_TEXT)]
