"""The UNet's forward pass as its family has it, without what diffusers asks and copies on the way.

The same layers in the same order: planes stay in `channels_last` order from the first convolution to the
last, tokens are views of them, and what a text is projected to is kept from step to step.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle.alike import Alike
from sdserver.bundle.kept_text import Text
from sdserver.bundle.kept_times import BYTES, KeptTimes
from sdserver.bundle.lean_attention import Block
from sdserver.bundle.lean_layers import (
    Convolver,
    Residual,
    Times,
    activated_norm,
    add_linear,
    as_planes,
    as_tokens,
    group_norm,
    linear,
)
from sdserver.bundle.memory import host_memory, spare_of
from sdserver.bundle.winograd import Winograd

_DOWN: Final = {"CrossAttnDownBlock2D", "DownBlock2D"}
_UP: Final = {"CrossAttnUpBlock2D", "UpBlock2D"}

_EXPECTED: Final[Mapping[str, object]] = MappingProxyType(
    {
        "act_fn": "silu",
        "addition_embed_type": None,
        "attention_type": "default",
        "center_input_sample": False,
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "downsample_padding": 1,
        "dropout": 0.0,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_only_cross_attention": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "resnet_time_scale_shift": "default",
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
    }
)
"""diffusers' names for what this pass takes for granted."""


def is_plain(unet: Any) -> bool:
    """Whether a diffusers UNet2DConditionModel is one that `Lean` runs; folders may hold others."""
    config = unet.config
    return (
        all(config.get(name, wanted) == wanted for name, wanted in _EXPECTED.items())
        and set(config.down_block_types) <= _DOWN
        and set(config.up_block_types) <= _UP
        and config.class_embed_type in (None, "projection")
        and config.norm_num_groups is not None
    )


class Lean:
    """A UNet of a plain kind.

    Args:
        unet: diffusers' UNet2DConditionModel on its device, its up-sampling by `UpsampleThenFit`.
        max_bytes: memory for kernels that are transformed, see `Winograd`; by default half of what is spare
            now.
        max_times: memory for embeddings of timesteps, see `KeptTimes`.
    """

    def __init__(self, unet: Any, max_bytes: int | None = None, max_times: int = BYTES) -> None:
        self._unet = unet
        if max_bytes is None:
            max_bytes = (spare_of(host_memory()) or 0) // 2
        layers = [module for module in unet.modules() if isinstance(module, nn.Conv2d)]
        self._winograd = Winograd(layers, max_bytes)
        self._convolve = convolve = Convolver(self._winograd)
        self._down = [_Level(block, "downsamplers", convolve) for block in unet.down_blocks]
        self._up = [_Level(block, "upsamplers", convolve) for block in unet.up_blocks]
        self._attends_at_once = bool(self._down[0].places)
        self._middle = _Middle(unet.mid_block, convolve)
        self._times = KeptTimes(unet, max_times)
        parts: list[_Level | _Middle] = [*self._down, self._middle, *self._up]
        self.blocks = [block for part in parts for place in part.places for block in place.blocks]

    def __call__(
        self,
        x: Tensor,
        timesteps: Tensor,
        text: Text,
        vector: Tensor | None,
        alike: Alike | None = None,
    ) -> Tensor:
        """Evaluate the network.

        Args:
            x: (n, in_channels, h, w) in `channels_last` order.
            timesteps: (n,), float32.
            text: of n rows.
            vector: (n, vector_dim) where the family has one.
            alike: rows with equal `x` and `timesteps`; they are computed once as far as that goes.

        Returns:
            (n, channels, h, w) in the type of `x`.
        """
        unet = self._unet
        times = self._times(timesteps, vector, x.dtype)
        if vector is not None or not self._attends_at_once:
            alike = None
        first, *others = self._down
        h = self._convolve(unet.conv_in, x if alike is None else alike.once(x))
        left = [h if alike is None else alike.planes(h)]
        h = first.down(h, times, text, left, alike)
        for level in others:
            h = level.down(h, times, text, left)
        h = self._middle(h, times, text)
        for level in self._up:
            h = level.up(h, times, text, left)
        return self._convolve(unet.conv_out, activated_norm(unet.conv_norm_out, h))

    def clear(self) -> None:
        """Free the memory of what is kept for later calls."""
        self._winograd.clear()
        self._times.clear()


class _Place:
    """diffusers' Transformer2DModel: blocks of attention over the tokens of a plane."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.blocks = [Block(block) for block in module.transformer_blocks]

    def __call__(self, x: Tensor, text: Text, alike: Alike | None = None) -> Tensor:
        """Writes to `x`. With `alike`, that has but a row of each kind; what is returned has all."""
        module = self._module
        tokens = linear(module.proj_in, as_tokens(group_norm(module.norm, x)))
        x = x if alike is None else alike.planes(x)
        rows, _, height, width = x.shape
        first, *others = self.blocks
        tokens = first(tokens, rows, text, alike)
        for block in others:
            tokens = block(tokens, rows, text)
        return as_planes(add_linear(module.proj_out, tokens, as_tokens(x)), rows, height, width)


class _Level:
    """A level of the network, on the way down or up."""

    def __init__(self, block: Any, sampling: str, convolve: Convolver) -> None:
        self.places = [_Place(place) for place in getattr(block, "attentions", ())]
        self._residuals = [Residual(residual, convolve) for residual in block.resnets]
        self._sampling = list(getattr(block, sampling) or ())
        self._convolve = convolve

    def down(
        self, h: Tensor, times: Times, text: Text, left: list[Tensor], alike: Alike | None = None
    ) -> Tensor:
        """Leaves what the way up will take. With `alike`, `h` has but a row of each kind."""
        for index, residual in enumerate(self._residuals):
            h = residual(h, times if alike is None else alike.times_once(times))
            if self.places:
                h = self.places[index](h, text, alike)
                alike = None
            left.append(h)
        for sampling in self._sampling:
            h = self._convolve(sampling.conv, h)
            left.append(h)
        return h

    def up(self, h: Tensor, times: Times, text: Text, left: list[Tensor]) -> Tensor:
        """Takes what the way down has left."""
        for index, residual in enumerate(self._residuals):
            h = residual(torch.cat([h, left.pop()], dim=1), times)
            if self.places:
                h = self.places[index](h, text)
        for sampling in self._sampling:
            h = self._doubled(sampling.conv, h, left[-1].shape[2:])
        return h

    def _doubled(self, conv: nn.Module, x: Tensor, size: torch.Size) -> Tensor:
        """As `UpsampleThenFit`."""
        h = self._convolve(conv, functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return h if h.shape[2:] == size else functional.interpolate(h, size=size, mode="nearest")


class _Middle:
    """The network's middle."""

    def __init__(self, block: Any, convolve: Convolver) -> None:
        self.places = [_Place(place) for place in block.attentions]
        self._residuals = [Residual(residual, convolve) for residual in block.resnets]

    def __call__(self, h: Tensor, times: Times, text: Text) -> Tensor:
        first, *others = self._residuals
        h = first(h, times)
        for place, residual in zip(self.places, others, strict=True):
            h = residual(place(h, text), times)
        return h
