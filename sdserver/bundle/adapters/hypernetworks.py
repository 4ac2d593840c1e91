"""Hypernetworks: small networks that change the context before attention's keys and values.

As in AUTOMATIC1111, there is a pair of them per width of context, for self-attention and for
cross-attention alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from sdserver.errors import UnusableAdapter

_NONE = (None, "linear", "identity")
_SWISH = "swish"
_ACTIVATIONS = (
    nn.ReLU, nn.RReLU, nn.Hardtanh, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.Hardshrink, nn.LeakyReLU, nn.LogSigmoid,
    nn.Softplus, nn.Softshrink, nn.PReLU, nn.Softsign, nn.Tanhshrink,
)  # fmt: skip
_BY_NAME: Mapping[str, type[nn.Module]] = {kind.__name__.lower(): kind for kind in _ACTIVATIONS} | {
    _SWISH: nn.Hardswish
}
_OLD_NAMES = {"linear1": "linear.0", "linear2": "linear.1"}
_DEFAULT_DROPOUT = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Hypernetwork:
    """A loaded hypernetwork.

    Attributes:
        layers: by width of context, the networks for keys and for values, float32.
    """

    layers: Mapping[int, tuple[nn.Module, nn.Module]]
    strength: float

    def adapt(self, context: Tensor, *, is_key: bool) -> Tensor:
        """The context (n, tokens, width) changed; as it is where there is no network for its width."""
        pair = self.layers.get(context.shape[-1])
        if pair is None:
            return context
        wide = context.float()
        changed: Tensor = wide + pair[0 if is_key else 1](wide) * self.strength
        return changed.to(context.dtype)

    @property
    def bytes(self) -> int:
        """Memory that its networks take."""
        networks = (network for pair in self.layers.values() for network in pair)
        return sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())


def read_hypernetwork(path: Path, strength: float, device: torch.device) -> Hypernetwork:
    """Read a hypernetwork's file, by torch's restricted unpickler, which runs no code of the file.

    Raises:
        UnusableAdapter: damaged, no hypernetwork, or of a structure that is not known.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnusableAdapter(f"The hypernetwork {path.name} cannot be read: {reason}") from error
    try:
        if not isinstance(content, dict):
            raise ValueError("it holds no dictionary")
        layers = {
            width: (_network(width, pair[0], content), _network(width, pair[1], content))
            for width, pair in content.items()
            if isinstance(width, int)
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise UnusableAdapter(f"{path.name} is no hypernetwork that is known: {error}") from error
    if not layers:
        raise UnusableAdapter(f"{path.name} is no hypernetwork: it has no layers.")
    for pair in layers.values():
        for network in pair:
            network.to(device).eval().requires_grad_(False)
    return Hypernetwork(layers, strength)


def _network(width: int, state: Mapping[str, Tensor], facts: Mapping[Any, Any]) -> nn.Module:
    """A network of the structure that the file tells, with the file's data."""
    structure = facts.get("layer_structure") or [1, 2, 1]
    activation = _activation(facts.get("activation_func"))
    dropout = _dropout(facts, len(structure))
    modules: list[nn.Module] = []
    with torch.device("meta"):
        for index, (size, following) in enumerate(pairwise(structure)):
            is_last = index == len(structure) - 2
            modules.append(nn.Linear(int(width * size), int(width * following)))
            if activation is not None and not (is_last and not facts.get("activate_output", True)):
                modules.append(activation())
            if facts.get("is_layer_norm", False):
                modules.append(nn.LayerNorm(int(width * following)))
            if dropout[index + 1] > 0:
                modules.append(nn.Identity())  # dropout is for training; it counts in the data's names
    network = nn.Sequential(*modules)
    renamed = {_renamed(name).removeprefix("linear."): tensor.float() for name, tensor in state.items()}
    network.load_state_dict(renamed, assign=True)
    return network


def _renamed(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{_OLD_NAMES.get(layer, layer)}.{kind}"


def _activation(name: object) -> type[nn.Module] | None:
    if name in _NONE:
        return None
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(f"its activation function {name!r} is not served")
    return _BY_NAME[name]


def _dropout(facts: Mapping[Any, Any], length: int) -> list[float]:
    """Dropout behind each layer, the input first; where the file only says that there is some, as
    AUTOMATIC1111 then places it.
    """
    told = facts.get("dropout_structure")
    if told is not None:
        return [float(value) for value in told]
    if not facts.get("use_dropout", False):
        return [0.0] * length
    last = _DEFAULT_DROPOUT if facts.get("last_layer_dropout", False) else 0.0
    return [0.0, *[_DEFAULT_DROPOUT] * (length - 3), last, 0.0]
