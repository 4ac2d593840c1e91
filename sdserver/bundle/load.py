"""Load a checkpoint: a single file in the original layout, or a diffusers folder. Never the network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sdserver.bundle.convert import Source, Sources, text_sources, unet_sources, vae_sources
from sdserver.bundle.detect import Detected, detect
from sdserver.bundle.device import Placement
from sdserver.bundle.dims import UNET, VAE
from sdserver.bundle.folder import prepare_folder
from sdserver.bundle.parts import Parts, empty_text, empty_unet, empty_vae
from sdserver.bundle.sidecar import read_sidecar
from sdserver.bundle.weights import Shape, Shapes, Weights, open_weights
from sdserver.errors import CheckpointError, UnreadableCheckpoint, UnsupportedCheckpoint

# Names below a part's prefix that inference has no use for.
_IDLE_ENDINGS = (".position_ids", ".logit_scale", ".text_projection", ".text_projection.weight", ".attn_mask")
_IDLE_PLACES = (f"{VAE}loss.", f"{VAE}model_ema.")
_NAMES_SHOWN = 3

Read = Callable[[Placement], Parts]


@contextmanager
def prepare(path: Path, *, allow_pickle: bool) -> Iterator[Read]:
    """Check all that can be checked without reading data; then yield what reads it to the device.

    The two are apart so that a checkpoint in use need not make room for one that cannot be loaded.
    Data are read tensor by tensor, each converted on its own.

    Raises:
        UnreadableCheckpoint: missing, damaged, or not a checkpoint.
        UnsupportedCheckpoint: of a family or layout that is not served.
        RuntimeError: while reading: the device's memory does not suffice.
    """
    if path.is_dir():
        yield prepare_folder(path)
        return
    with open_weights(path, allow_pickle=allow_pickle) as weights:
        try:
            frame = Frame(detect(weights, read_sidecar(path)), weights)
        except CheckpointError as error:
            raise type(error)(f"{path.name}: {error}") from error
        except (ValueError, RuntimeError, IndexError) as error:
            raise UnsupportedCheckpoint(f"{path.name}: its dimensions make no network ({error}).") from error

        def read(placement: Placement) -> Parts:
            try:
                return frame.fill(placement)
            except (SafetensorError, OSError) as error:
                raise UnreadableCheckpoint(
                    f"{path.name} cannot be read, download it again: {error}"
                ) from error

        yield read


class Frame:
    """The empty networks of an open file, with the place in the file of each tensor."""

    def __init__(self, detected: Detected, weights: Weights) -> None:
        names = frozenset(weights.shapes)
        layout = detected.layout
        self._weights = weights
        self._spec = detected.spec
        self._unet = empty_unet(layout.unet)
        self._vae = empty_vae(layout.vae)
        self._text = tuple(empty_text(spec) for spec in layout.text)
        prefixes = (UNET, VAE, *(spec.prefix for spec in layout.text))
        sources = (
            unet_sources(layout.unet, names),
            vae_sources(layout.vae, names),
            *(text_sources(spec, names) for spec in layout.text),
        )
        self._plan = tuple(zip((self._unet, self._vae, *self._text), sources, strict=True))
        for (module, found), prefix in zip(self._plan, prefixes, strict=True):
            check_tensors(module, found, weights.shapes, prefix)

    def fill(self, placement: Placement) -> Parts:
        """Read the data. May be called once."""
        for module, sources in self._plan:
            state = {
                name: read_tensor(self._weights, sources[name], tuple(empty.shape), placement)
                for name, empty in module.state_dict().items()
            }
            module.load_state_dict(state, assign=True)
            module.eval().requires_grad_(False)
        for text in self._text:
            _number_positions(text, placement)
        return Parts(self._spec, self._unet, self._vae, self._text)


def check_tensors(module: nn.Module, sources: Sources, shapes: Shapes, prefix: str) -> None:
    """Every tensor of the network is in the file and the other way round, and shapes agree."""
    wanted = {name: tuple(empty.shape) for name, empty in module.state_dict().items()}
    missing = sorted(wanted.keys() - sources.keys())
    if missing:
        raise UnreadableCheckpoint(f"tensors are missing ({_some(missing)} of {type(module).__name__}).")
    used = {source.name for name, source in sources.items() if name in wanted}
    below = (name for name in shapes if name.startswith(prefix) and name not in used)
    unknown = [
        name for name in below if not name.endswith(_IDLE_ENDINGS) and not name.startswith(_IDLE_PLACES)
    ]
    if unknown:
        raise UnsupportedCheckpoint(f"it has tensors that are not known ({_some(unknown)}).")
    for name, shape in wanted.items():
        source = sources[name]
        if _squeezed(_source_shape(source, shapes)) != _squeezed(shape):
            message = (
                f"the tensor {source.name} has the shape {list(shapes[source.name])}, which does not fit."
            )
            raise UnreadableCheckpoint(message)


def _source_shape(source: Source, shapes: Shapes) -> Shape:
    shape = shapes[source.name]
    if source.part is not None:
        return (shape[0] // 3 if shape[0] % 3 == 0 else 0, *shape[1:])
    return shape[::-1] if source.transposed else shape


def _squeezed(shape: Shape) -> Shape:
    """Without the sides that tell a 1x1 convolution from a linear layer."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def read_tensor(weights: Weights, source: Source, shape: Shape, placement: Placement) -> Tensor:
    """One tensor in its final shape, type, place and memory order; never a view of the file."""
    tensor = weights.tensor(source.name)
    if source.part is not None:
        tensor = tensor.chunk(3)[source.part]
    if source.transposed:
        tensor = tensor.T
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    tensor = tensor.reshape(shape)
    return tensor.to(placement.device, placement.dtype, copy=True, memory_format=layout)


def _number_positions(text: nn.Module, placement: Placement) -> None:
    """Fill `position_ids`, CLIP's only buffer, which files need not have: 0, 1, 2, ..."""
    for place, empty in list(text.named_buffers()):
        owner, _, name = place.rpartition(".")
        if empty.is_meta:
            numbers = torch.arange(empty.shape[-1], device=placement.device).expand(empty.shape)
            setattr(text.get_submodule(owner), name, numbers)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
