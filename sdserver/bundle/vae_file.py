"""VAEs of their own file, to be used in the place of a checkpoint's own."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from sdserver.bundle.load import check_tensors, read_tensor
from sdserver.bundle.spec import Spec, VaeSpec
from sdserver.bundle.vae import Autoencoder
from sdserver.bundle.weights import Shapes, Weights, open_weights
from sdserver.errors import CheckpointError, UnreadableCheckpoint

_KEPT = 2


class Autoencoders:
    """A checkpoint's own VAE, and the last ones used in its place.

    Args:
        own: diffusers' AutoencoderKL; others must have its dimensions.
        allow_pickle: whether .pt, .ckpt and the like may be read (weights only).
    """

    def __init__(self, own: nn.Module, spec: Spec, placement: Placement, *, allow_pickle: bool) -> None:
        self._module = own
        self._own = Autoencoder(own, spec, placement)
        self._spec = spec
        self._placement = placement
        self._allow_pickle = allow_pickle
        self._others: OrderedDict[tuple[str, int, int], Autoencoder] = OrderedDict()

    def move(self, device: torch.device) -> None:
        """Have all parameters lie on a device; they run only on their own."""
        for one in (self._own, *self._others.values()):
            one.move(device)

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
            while len(self._others) >= _KEPT:
                self._others.popitem(last=False)
            module = read_vae_file(Path(path), self._module, self._placement, allow_pickle=self._allow_pickle)
            self._others[key] = Autoencoder(module, self._spec, self._placement)
        self._others.move_to_end(key)
        return self._others[key]


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
            state = {
                name: read_tensor(weights, sources[name], tuple(empty.shape), placement)
                for name, empty in module.state_dict().items()
            }
    except CheckpointError as error:
        raise type(error)(f"The VAE {path.name} does not fit the checkpoint: {error}") from error
    except (SafetensorError, OSError) as error:
        raise UnreadableCheckpoint(
            f"The VAE {path.name} cannot be read, download it again: {error}"
        ) from error
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(requires_grad=False)


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
