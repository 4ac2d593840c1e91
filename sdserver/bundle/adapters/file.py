"""Files of the LoRA family: which tensors change which layer."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from sdserver.bundle.adapters.keys import BUNDLED, split_key
from sdserver.bundle.adapters.kinds import Parts, is_known
from sdserver.bundle.adapters.names import Layer, Layers
from sdserver.bundle.weights import Weights, open_weights
from sdserver.errors import CheckpointError, UnusableAdapter

log = logging.getLogger(__name__)

_FUSED_PARTS = 4


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An open file, sorted by layers.

    Attributes:
        names: by the layer's key, the file's tensors by part.
    """

    path: Path
    weights: Weights
    names: Mapping[str, Mapping[str, str]]

    def parts(self, key: str, device: torch.device) -> Parts:
        """A layer's tensors, float32 on the device.

        Raises:
            UnusableAdapter: the data are damaged.
        """
        try:
            return {
                part: self.weights.tensor(name).to(device, torch.float32)
                for part, name in self.names[key].items()
            }
        except (SafetensorError, OSError) as error:
            raise UnusableAdapter(f"{self.path.name} cannot be read, download it again: {error}") from error


@contextmanager
def open_adapter(path: Path, layers: Layers, *, allow_pickle: bool) -> Iterator[AdapterFile]:
    """Open a file and find the layers that it names. Names that match nothing are passed over, as in
    AUTOMATIC1111; a warning says so if nothing matches at all.

    Raises:
        UnusableAdapter: damaged, a pickle where those are not allowed, or with layers of an unknown kind.
    """
    with _open(path, allow_pickle=allow_pickle) as weights:
        names = _by_layer(weights, layers)
        if not names and not any(name.startswith(BUNDLED) for name in weights.shapes):
            log.warning("%s names no layer of this checkpoint: it has no effect", path.name)
        for key, parts in names.items():
            if not is_known(frozenset(parts)):
                message = f"{path.name} has a layer of a kind that is not known: {key} of {sorted(parts)}."
                raise UnusableAdapter(message)
        yield AdapterFile(path, weights, names)


def bundled_embeddings(path: Path, *, allow_pickle: bool) -> dict[str, dict[str, Tensor]]:
    """Textual inversions inside an adapter's file: by their names, tensors as an embedding's file names
    them (`emb_params`, `clip_l` and `clip_g`, `string_to_param.*`, ...). Empty where there are none.

    Raises:
        UnusableAdapter: damaged, or a pickle where those are not allowed.
    """
    found: dict[str, dict[str, Tensor]] = {}
    with _open(path, allow_pickle=allow_pickle) as weights:
        try:
            for name in weights.shapes:
                if name.startswith(BUNDLED):
                    embedding, _, part = name.removeprefix(BUNDLED).partition(".")
                    found.setdefault(embedding, {})[part] = weights.tensor(name).clone()
        except (SafetensorError, OSError) as error:
            raise UnusableAdapter(f"{path.name} cannot be read, download it again: {error}") from error
    return found


@contextmanager
def _open(path: Path, *, allow_pickle: bool) -> Iterator[Weights]:
    try:
        with open_weights(path, allow_pickle=allow_pickle) as weights:
            yield weights
    except UnusableAdapter:
        raise
    except CheckpointError as error:
        raise UnusableAdapter(f"The adapter {error}") from error


def _by_layer(weights: Weights, layers: Layers) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    of_key: dict[str, Layer] = {}
    for name in weights.shapes:
        split = split_key(name, layers)
        if split is not None:
            layer, part = layers[split[0]], split[1]
            of_key[layer.key] = layer
            found.setdefault(layer.key, {})[part] = name
    fused: dict[str, list[str]] = {}
    for key, layer in of_key.items():
        if layer.fused:
            fused.setdefault(layer.fused, []).append(key)
    for keys in fused.values():
        if len(keys) < _FUSED_PARTS:
            for key in keys:
                del found[key]
    return found
