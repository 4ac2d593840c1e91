"""Weights that lie in memory as numbers of 8 bits (float8_e4m3fn), half the size of 16-bit ones.

As in AUTOMATIC1111 these are weights and biases of all linear and convolutional layers of the UNet and the
text encoders. They are widened for the time of a layer's work; nothing else is computed in 8 bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle.parts import Parts
from sdserver.jobs.model import Family, Storage

FP8: Final = torch.float8_e4m3fn
_PARAMETERS: Final = ("weight", "bias")
_WHOLE_ATTENTION: Final = (".q_proj", ".k_proj", ".v_proj")
"""What OpenCLIP has in one tensor that is no layer of its own, so that A1111 leaves it as it is."""

_PROJECTION: Final = "text_projection"
"""The same."""


@dataclass(frozen=True, slots=True, eq=False)
class _Widened:
    """A layer's work with its parameters widened to the type of what it is given."""

    layer: nn.Linear | nn.Conv2d

    def __call__(self, given: Tensor) -> Tensor:
        layer = self.layer
        weight = layer.weight.to(given.dtype)
        bias = None if layer.bias is None else layer.bias.to(given.dtype)
        if isinstance(layer, nn.Conv2d):
            convolved: Tensor = layer._conv_forward(given, weight, bias)
            return convolved
        return functional.linear(given, weight, bias)


def is_narrow(storage: Storage, family: Family, device: torch.device) -> bool:
    """Whether a checkpoint's weights are to lie in 8 bits; Apple's devices know no such numbers."""
    wants = storage == "fp8" or (storage == "fp8 for sdxl" and family == "sdxl")
    return wants and device.type != "mps"


def narrow(parts: Parts, *, keeps_fp16: bool) -> None:
    """Have a checkpoint's weights lie in 8 bits from now on.

    Args:
        parts: just loaded, on its device.
        keeps_fp16: keep them in 16 bits, too, in the CPU's memory, for `own_values` to give.
    """
    for layer in _layers(parts):
        for name in _PARAMETERS:
            parameter = layer._parameters[name]
            if parameter is None:
                continue
            if keeps_fp16:
                setattr(layer, _kept_name(name), parameter.detach().to("cpu", torch.float16, copy=True))
            layer._parameters[name] = nn.Parameter(parameter.detach().to(FP8), requires_grad=False)
        layer.__dict__["forward"] = _Widened(layer)


def own_values(layer: nn.Module, name: str) -> Tensor | None:
    """A layer's weight or bias in float32, from the 16-bit numbers where those were kept; None if it has
    none.
    """
    parameter = layer._parameters[name]
    if parameter is None:
        return None
    kept: Tensor | None = getattr(layer, _kept_name(name), None)
    return (parameter.detach() if kept is None else kept.to(parameter.device)).float()


def _kept_name(name: str) -> str:
    return f"_sdserver_fp16_{name}"


def _layers(parts: Parts) -> Iterator[nn.Linear | nn.Conv2d]:
    yield from (one for one in parts.unet.modules() if isinstance(one, nn.Linear | nn.Conv2d))
    for kind, encoder in zip(parts.spec.text, parts.text, strict=True):
        left_out = () if kind == "clip" else (*_WHOLE_ATTENTION, _PROJECTION)
        for place, one in encoder.named_modules():
            if isinstance(one, nn.Linear) and not place.endswith(left_out):
                yield one
