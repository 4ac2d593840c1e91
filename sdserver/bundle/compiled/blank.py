"""A UNet without data, put in a form that can be compiled for every picture at once."""

import json
from collections.abc import Mapping
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.export import Dim

from sdserver.bundle.unet import replace_upsampling

STEP: Final = 8
"""Latent sides that are multiples of this are served: skip connections then fit without a resize."""

MAX_ROWS: Final = 1024
MAX_SIDE: Final = 2048
MAX_TOKENS: Final = 77 * 1024
SMALL: Final = 8
"""Parameters of so few values are written into the code as numbers by the compiler, so there may be none."""

_EXAMPLE: Final = (4, 3 * STEP, 4 * STEP, 77)


class NotCompilable(Exception):
    """The network is of a kind that is not compiled; the message says which."""


class Evaluation(nn.Module):
    """The network as a function of tensors in their order.

    The last convolution's bias, a handful of values, is given like any input.

    Args:
        unet: diffusers' UNet2DConditionModel; its last bias is taken away.

    Raises:
        NotCompilable: it has other parameters of a few values.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        unet.conv_out.bias = None
        small = [name for name, one in unet.named_parameters() if one.numel() <= SMALL]
        if small:
            raise NotCompilable(f"its parameter {small[0]} has too few values")
        self.unet = unet

    def forward(
        self, sample: Tensor, timesteps: Tensor, context: Tensor, bias: Tensor, vector: Tensor | None = None
    ) -> Tensor:
        """The prediction (n, channels, h, w)."""
        (predicted,) = self.unet(
            sample, timesteps, encoder_hidden_states=context, class_labels=vector, return_dict=False
        )
        result: Tensor = predicted + bias[None, :, None, None]
        return result


def blank(config: str, dtype: torch.dtype, device: torch.device) -> Evaluation:
    """The network with memory that is never written to, so that hardly any is taken on a CPU."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(json.loads(config))
    replace_upsampling(unet)
    unet.apply(lambda module: nn.Module.to(module, dtype))  # diffusers' own `to` warns of what is no matter
    unet.to(memory_format=torch.channels_last).to_empty(device=device)
    return Evaluation(unet.eval().requires_grad_(False))


def examples(network: Evaluation, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Inputs of sizes that nothing takes for special."""
    rows, height, width, tokens = _EXAMPLE
    config: Any = network.unet.config
    sample = torch.zeros(rows, config.in_channels, height, width, dtype=dtype, device=device)
    inputs = (
        sample.contiguous(memory_format=torch.channels_last),
        torch.zeros(rows, device=device),
        torch.zeros(rows, tokens, config.cross_attention_dim, dtype=dtype, device=device),
        torch.zeros(config.out_channels, dtype=dtype, device=device),
    )
    if config.class_embed_type is None:
        return inputs
    length = config.projection_class_embeddings_input_dim
    return (*inputs, torch.zeros(rows, length, dtype=dtype, device=device))


def ranges(inputs: tuple[Tensor, ...]) -> Mapping[str, Mapping[int, object] | None]:
    """Which sides of the inputs may be of any length."""
    rows = Dim("rows", max=MAX_ROWS)
    found: dict[str, Mapping[int, object] | None] = {
        "sample": {
            0: rows,
            2: STEP * Dim("height", max=MAX_SIDE // STEP),
            3: STEP * Dim("width", max=MAX_SIDE // STEP),
        },
        "timesteps": {0: rows},
        "context": {0: rows, 1: Dim("tokens", max=MAX_TOKENS)},
        "bias": None,
    }
    return found | ({"vector": {0: rows}} if len(inputs) == 5 else {})
