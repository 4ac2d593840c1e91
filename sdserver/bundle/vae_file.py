"""VAEs of their own file, to be used in the place of a checkpoint's own."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from torch import Tensor, nn

from sdserver.bundle.convert import vae_sources
from sdserver.bundle.device import Placement
from sdserver.bundle.dims import VAE
from sdserver.bundle.fill import check_tensors, read_state
from sdserver.bundle.offload import Offload, lodge_vae
from sdserver.bundle.spec import Spec, VaeSpec
from sdserver.bundle.staging import Staging
from sdserver.bundle.vae import Autoencoder
from sdserver.bundle.weights import Shapes, Weights, open_weights
from sdserver.errors import CheckpointError, UnreadableCheckpoint

_KEPT = 2
_HOME = torch.device("cpu")
_Key = tuple[str, int, int]
OWN = "vae"
"""The name by which a checkpoint's own VAE takes turns with its other networks."""


class Autoencoders:
    """A checkpoint's own VAE, and the last ones used in its place.

    Args:
        own: diffusers' AutoencoderKL; others must have its dimensions.
        allow_pickle: whether .pt, .ckpt and the like may be read (weights only).
        most: how many of the others are kept, at least 1.
        offload: where the networks take turns on the device; `own` then lies in the CPU's memory.
    """

    def __init__(
        self,
        own: nn.Module,
        spec: Spec,
        placement: Placement,
        *,
        allow_pickle: bool,
        most: Callable[[], int] = lambda: _KEPT,
        offload: Offload | None = None,
    ) -> None:
        self._module = own
        self._own = Autoencoder(own, spec, placement)
        self._spec = spec
        self._placement = placement
        self._allow_pickle = allow_pickle
        self._most = most
        self._offload = offload
        if offload is not None:
            lodge_vae(offload, OWN, own)
        self._others: OrderedDict[_Key, Autoencoder] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Memory that all of them take."""
        return self._own.bytes + sum(one.bytes for one in self._others.values())

    def move(self, device: torch.device) -> None:
        """Have all parameters lie on a device; they run only on their own."""
        for one in (self._own, *self._others.values()):
            one.move(device)

    def forget(self) -> None:
        """Free the memory of what is kept for later calls."""
        for one in (self._own, *self._others.values()):
            one.forget()

    def get(self, path: str) -> Autoencoder:
        """The VAE of a file, loaded now if it is not or has changed; the own one for an empty path.

        Raises:
            UnreadableCheckpoint: missing, damaged, or of other dimensions.
            UnsupportedCheckpoint: it is a pickle and those are not allowed, or no VAE.
            RuntimeError: the device's memory does not suffice.
        """
        if not path:
            return self._own
        try:
            status = Path(path).stat()
        except OSError as error:
            raise UnreadableCheckpoint(f"The VAE {Path(path).name} cannot be read: {error}") from error
        key = path, status.st_mtime_ns, status.st_size
        if key not in self._others:
            while len(self._others) >= max(1, self._most()):
                self._drop(*self._others.popitem(last=False))
            self._others[key] = self._loaded(key)
        self._others.move_to_end(key)
        return self._others[key]

    def _loaded(self, key: _Key) -> Autoencoder:
        place = self._placement if self._offload is None else replace(self._placement, device=_HOME)
        module = read_vae_file(Path(key[0]), self._module, place, allow_pickle=self._allow_pickle)
        if self._offload is not None:
            lodge_vae(self._offload, str(key), module)
        return Autoencoder(module, self._spec, self._placement)

    def _drop(self, key: _Key, _autoencoder: Autoencoder) -> None:
        if self._offload is not None:
            self._offload.leave(str(key))


def read_vae_file(path: Path, like: Any, placement: Placement, *, allow_pickle: bool) -> nn.Module:
    """A VAE with the dimensions of another one and the data of a file in the original layout.

    The names of the file's tensors may begin with `first_stage_model.`, as in a whole checkpoint.
    """
    config = like.config
    spec = VaeSpec(tuple(config.block_out_channels), config.layers_per_block, config.latent_channels)
    with torch.device("meta"):
        module: nn.Module = AutoencoderKL.from_config(config)
    try:
        with _open(path, allow_pickle=allow_pickle) as weights:
            sources = vae_sources(spec, frozenset(weights.shapes))
            check_tensors(module, sources, weights.shapes, VAE)
            read_state(module, weights, sources, placement)
    except CheckpointError as error:
        raise type(error)(f"The VAE {path.name} does not fit the checkpoint: {error}") from error
    except (SafetensorError, OSError) as error:
        raise UnreadableCheckpoint(
            f"The VAE {path.name} cannot be read, download it again: {error}"
        ) from error
    return module


@contextmanager
def _open(path: Path, *, allow_pickle: bool) -> Iterator[Weights]:
    with open_weights(path, allow_pickle=allow_pickle) as weights:
        if any(name.startswith(VAE) for name in weights.shapes):
            yield weights
        else:
            yield _Bare(weights)


@dataclass(frozen=True, slots=True)
class _Bare:
    """A VAE alone, under the names that it has in a whole checkpoint."""

    weights: Weights

    @property
    def shapes(self) -> Shapes:
        return MappingProxyType({VAE + name: shape for name, shape in self.weights.shapes.items()})

    def tensor(self, name: str) -> Tensor:
        return self.weights.tensor(name.removeprefix(VAE))

    def staged(self, name: str, staging: Staging) -> Tensor:
        return self.weights.staged(name.removeprefix(VAE), staging)
