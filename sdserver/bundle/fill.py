"""Empty networks are checked against a file's tensors, then filled from it."""

import torch
from torch import Tensor, nn

from sdserver.bundle.convert import Source, Sources
from sdserver.bundle.device import Placement
from sdserver.bundle.dims import VAE
from sdserver.bundle.safetensors_file import Shape
from sdserver.bundle.staging import Staging
from sdserver.bundle.weights import Shapes, Weights
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint

# Names below a part's prefix that inference has no use for.
_IDLE_ENDINGS = (".position_ids", ".logit_scale", ".text_projection", ".text_projection.weight", ".attn_mask")
_IDLE_PLACES = (f"{VAE}loss.", f"{VAE}model_ema.")
_NAMES_SHOWN = 3


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


def read_state(module: nn.Module, weights: Weights, sources: Sources, placement: Placement) -> None:
    """Fill an empty network from a file, tensor by tensor, and make it ready to run.

    No more memory is taken than for the network itself and for a single tensor on its way.
    """
    staging = Staging(placement.device)
    state = {
        name: read_tensor(weights, sources[name], tuple(empty.shape), placement, staging)
        for name, empty in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    module.eval().requires_grad_(requires_grad=False)


def read_tensor(
    weights: Weights, source: Source, shape: Shape, placement: Placement, staging: Staging
) -> Tensor:
    """One tensor in its final shape, type, place and memory order; never a view of the file."""
    tensor = weights.staged(source.name, staging)
    if source.part is not None:
        tensor = tensor.chunk(3)[source.part]
    if source.transposed:
        tensor = tensor.T
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    tensor = tensor.reshape(shape)
    return tensor.to(placement.device, placement.dtype, copy=True, memory_format=layout)


def number_positions(text: nn.Module, placement: Placement) -> None:
    """Fill `position_ids`, CLIP's only buffer, which files need not have: 0, 1, 2, ..."""
    for place, empty in list(text.named_buffers()):
        owner, _, name = place.rpartition(".")
        if empty.is_meta:
            numbers = torch.arange(empty.shape[-1], device=placement.device).expand(empty.shape)
            setattr(text.get_submodule(owner), name, numbers)


def _some(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
