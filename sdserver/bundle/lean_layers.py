"""Layers of the UNet by torch's functions, on parameters that stay where they are.

Tensors of planes are (n, channels, h, w) in `channels_last` order; tokens are (n * h * w, channels), which is
the same memory. Parameters are looked up at each call, for adapters swap them.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from sdserver.bundle.winograd import Winograd

UNFOLDED: Final = 4096
"""Values up to which a convolution on a CPU is a matrix product of unfolded pixels: oneDNN takes longer to
prepare itself than to compute so little.
"""

OUTWEIGHED: Final = 256
"""Channels from which on a kernel is large: it outweighs as many pixels as it has channels."""

FEW: Final = 64
"""Pixels that a large kernel outweighs even where Winograd's way is open."""

Times = Mapping[int, Tensor]
"""(n, channels, 1, 1) by the residual block's `id`: what it adds for the timestep."""


def parameters(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A layer's weight and bias, widened where they lie in memory as shorter numbers."""
    own = module._parameters
    weight, bias = own["weight"], own["bias"]
    if weight.dtype is dtype:
        return weight, bias
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def linear(module: Any, x: Tensor) -> Tensor:
    """A linear layer or a 1x1 convolution on tokens (m, channels)."""
    weight, bias = parameters(module, x.dtype)
    return functional.linear(x, weight if weight.ndim == 2 else weight.flatten(1), bias)


def add_linear(module: Any, x: Tensor, onto: Tensor) -> Tensor:
    """What `linear` makes of tokens, added to others in their place: in fp32 on a CPU by one product."""
    if not x.is_cpu or x.dtype is not torch.float32:
        return onto.add_(linear(module, x))
    weight, bias = parameters(module, x.dtype)
    if bias is not None:
        onto.add_(bias)
    return onto.addmm_(x, (weight if weight.ndim == 2 else weight.flatten(1)).T)


def layer_norm(module: Any, x: Tensor) -> Tensor:
    """Of tokens."""
    own = module._parameters
    return torch.layer_norm(x, module.normalized_shape, own["weight"], own["bias"], module.eps)


def group_norm(module: Any, x: Tensor) -> Tensor:
    """Of planes."""
    own = module._parameters
    return torch.group_norm(x, module.num_groups, own["weight"], own["bias"], module.eps)


def activated_norm(module: Any, x: Tensor) -> Tensor:
    """Group norm, then SiLU."""
    return functional.silu(group_norm(module, x), inplace=True)


def as_tokens(x: Tensor) -> Tensor:
    """Planes as tokens; no copy is made of what lies in `channels_last` order."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def as_planes(tokens: Tensor, rows: int, height: int, width: int) -> Tensor:
    """The reverse."""
    return tokens.view(rows, height, width, -1).permute(0, 3, 1, 2)


class Convolver:
    """Runs two-dimensional convolutions, with zeros or, where that is switched on, the other border around.

    On a CPU it takes what is quickest: small planes and, in float32, few pixels under large kernels are
    unfolded to a product of matrices; large kernels go by Winograd's way.

    Args:
        winograd: which of the network's layers may.
    """

    def __init__(self, winograd: Winograd) -> None:
        self._winograd = winograd

    def __call__(self, module: Any, x: Tensor) -> Tensor:
        """Convolve (n, channels, h, w)."""
        if module.kernel_size == (1, 1):
            rows, _, height, width = x.shape
            return as_planes(linear(module, as_tokens(x)), rows, height, width)
        if module.padding_mode != "zeros":
            padded: Tensor = module(x)
            return padded
        weight, bias = parameters(module, x.dtype)
        if not x.is_cpu or module.padding != (1, 1):
            return torch.conv2d(x, weight, bias, module.stride, module.padding)
        stride, pixels = module.stride[0], x.numel() // x.shape[1]
        takes = x.dtype is torch.float32 and self._winograd.takes(module)
        if x.numel() <= UNFOLDED * stride**2 or _outweighs(weight, pixels // stride**2, takes):
            return _unfolded(x, weight, bias, stride)
        if takes:
            return self._winograd(module, x)
        return torch.conv2d(x, weight, bias, module.stride, module.padding)


class Residual:
    """diffusers' ResnetBlock2D."""

    def __init__(self, module: Any, convolve: Convolver) -> None:
        self._module = module
        self._convolve = convolve

    def __call__(self, x: Tensor, times: Times | None = None) -> Tensor:
        module, convolve = self._module, self._convolve
        h = convolve(module.conv1, activated_norm(module.norm1, x))
        if times is not None:
            h = h.add_(times[id(module)])
        h = convolve(module.conv2, activated_norm(module.norm2, h))
        shortcut = module.conv_shortcut
        if shortcut is None:
            return h.add_(x)
        if shortcut.kernel_size != (1, 1):
            return h.add_(convolve(shortcut, x))
        rows, _, height, width = h.shape
        return as_planes(add_linear(shortcut, as_tokens(x), as_tokens(h)), rows, height, width)


def _outweighs(weight: Tensor, pixels: int, has_other_way: bool) -> bool:
    """Whether there is so much of a kernel for so few pixels that oneDNN's sorting of it takes longest."""
    channels = weight.shape[0]
    most = FEW if has_other_way else channels
    return weight.dtype is torch.float32 and channels >= OUTWEIGHED and pixels <= most


def _unfolded(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A 3x3 convolution with a border of one zero as a matrix product."""
    rows, channels, height, width = x.shape
    if height == width == 1:
        middle = weight[:, :, 1, 1]
        return functional.linear(x.flatten(1), middle, bias)[:, :, None, None]
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    down, across = (height - 1) // stride + 1, (width - 1) // stride + 1
    row, line, pixel, _ = padded.stride()
    sizes = (rows, down, across, 3, 3 * channels)
    windows = padded.as_strided(sizes, (row, line * stride, pixel * stride, line, 1))
    kernels = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
    found = functional.linear(windows.reshape(-1, 9 * channels), kernels, bias)
    return as_planes(found, rows, down, across)
