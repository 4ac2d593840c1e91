"""The autoencoder's way from latents to pictures as its family has it, without what diffusers copies."""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle.lean_layers import (
    Convolver,
    Residual,
    activated_norm,
    as_planes,
    as_tokens,
    group_norm,
    linear,
    parameters,
)
from sdserver.bundle.winograd import Winograd

_BLOCK: Final = "UpDecoderBlock2D"

_FOLDED: Final = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
"""Of a doubled plane's even and odd lines: which of a kernel's three lines meet the two lines that they stem
from.
"""


def is_plain(vae: Any) -> bool:
    """Whether a diffusers AutoencoderKL is one that `LeanDecoder` runs; folders may hold others."""
    config = getattr(vae, "config", None)
    return (
        config is not None
        and set(config.up_block_types) == {_BLOCK}
        and config.act_fn == "silu"
        and getattr(vae.decoder.mid_block, "attentions", None) is not None
        and len(vae.decoder.mid_block.attentions) == 1
        and vae.decoder.mid_block.attentions[0] is not None
    )


class LeanDecoder:
    """A decoder of a plain kind.

    Args:
        vae: diffusers' AutoencoderKL on its device.
        max_bytes: memory for kernels that are transformed, see `Winograd`.
    """

    def __init__(self, vae: Any, max_bytes: int = 0) -> None:
        self._vae = vae
        decoder = self._decoder = vae.decoder
        layers = [module for module in decoder.modules() if isinstance(module, nn.Conv2d)]
        self._winograd = Winograd(layers, max_bytes)
        self._convolve = convolve = Convolver(self._winograd)
        self._middle = [Residual(module, convolve) for module in decoder.mid_block.resnets]
        self._levels = [
            ([Residual(module, convolve) for module in block.resnets], list(block.upsamplers or ()))
            for block in decoder.up_blocks
        ]
        self._hooks = [
            hooks
            for module in (decoder, vae.post_quant_conv, *decoder.modules())
            if module is not None
            for hooks in (module._forward_pre_hooks, module._forward_hooks)
        ]

    @property
    def is_watched(self) -> bool:
        """Whether something is hooked to the decoder, which must then run as diffusers has it."""
        return any(self._hooks)

    def __call__(self, x: Tensor) -> Tensor:
        """Decode (n, channels, h, w) in `channels_last` order."""
        decoder, convolve = self._decoder, self._convolve
        if self._vae.post_quant_conv is not None:
            x = convolve(self._vae.post_quant_conv, x)
        first, *others = self._middle
        h = first(convolve(decoder.conv_in, x))
        for attention, residual in zip(decoder.mid_block.attentions, others, strict=True):
            h = residual(_attended(attention, h))
        for residuals, samplings in self._levels:
            for residual in residuals:
                h = residual(h)
            for sampling in samplings:
                h = doubled(sampling.conv, h)
        return convolve(decoder.conv_out, activated_norm(decoder.conv_norm_out, h))

    def clear(self) -> None:
        """Free the memory of what is kept for later calls."""
        self._winograd.clear()


def doubled(conv: Any, x: Tensor) -> Tensor:
    """A 3x3 convolution of planes doubled by repeating their pixels.

    In float32 on a CPU kernels are folded to 2x2: so many different pixels each of four of the result sees.
    """
    is_plain = conv.padding_mode == "zeros" and conv.padding == (1, 1) and conv.kernel_size == (3, 3)
    if not is_plain or not x.is_cpu or x.dtype is not torch.float32:
        result: Tensor = conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result
    weight, bias = parameters(conv, x.dtype)
    rows, _, height, width = x.shape
    out, channels = weight.shape[:2]
    fold = weight.new_tensor(_FOLDED)
    kernels = torch.einsum("pah,qbw,oihw->pqoiab", fold, fold, weight).reshape(4 * out, channels, 2, 2)
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    found = torch.conv2d(x, kernels, None if bias is None else bias.repeat(4), padding=1)
    result = x.new_empty(rows, height, 2, width, 2, out)
    for down, across in _phases():
        part = found[:, (2 * down + across) * out :][:, :out, down : down + height, across : across + width]
        result[:, :, down, :, across] = part.permute(0, 2, 3, 1)
    return result.view(rows, 2 * height, 2 * width, out).permute(0, 3, 1, 2)


def _phases() -> Iterator[tuple[int, int]]:
    return ((down, across) for down in (0, 1) for across in (0, 1))


def _attended(attention: Any, x: Tensor) -> Tensor:
    """Diffusers' Attention over all pixels of a plane."""
    rows, channels, height, width = x.shape
    tokens = as_tokens(group_norm(attention.group_norm, x))
    query, key, value = (
        linear(layer, tokens).view(rows, height * width, attention.heads, -1).transpose(1, 2)
        for layer in (attention.to_q, attention.to_k, attention.to_v)
    )
    found = functional.scaled_dot_product_attention(query, key, value)
    tokens = linear(attention.to_out[0], found.transpose(1, 2).reshape(-1, channels))
    return as_planes(tokens, rows, height, width).add_(x)
