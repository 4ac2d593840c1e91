"""OFT and BOFT: weights rotated block by block along the output channels (Qiu et al., 2023; Liu et al.,
2024).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_TINY = 1e-8


def rotated(parts: Mapping[str, Tensor], weight: Tensor) -> Tensor:
    """The weight (out, ...) rotated by `oft_blocks` (kohya's and LyCORIS') or `oft_diag` (old LyCORIS).

    Args:
        weight: of the layer, float32.
        parts: `oft_blocks` is (blocks, size, size) or for BOFT (stages, blocks, size, size), and read as
            the source of a skew-symmetric matrix; `oft_diag` holds rotations; `alpha` bounds the norm
            of the former; `rescale` scales output channels.

    Raises:
        RuntimeError: shapes do not fit.
    """
    if "oft_blocks" in parts:
        blocks = _cayley(parts["oft_blocks"], parts.get("alpha"), weight.shape[0])
    else:
        blocks = parts["oft_diag"]
    result = _butterfly(blocks, weight) if blocks.ndim == 4 else _blockwise(blocks, weight)
    if "rescale" in parts:
        result = parts["rescale"].reshape(-1, *[1] * (weight.ndim - 1)) * result
    return result


def _cayley(blocks: Tensor, alpha: Tensor | None, channels: int) -> Tensor:
    """Rotations by Cayley's transform, (1 + Q) / (1 - Q) of a skew-symmetric Q."""
    skew = blocks - blocks.transpose(-1, -2)
    limit = 0.0 if alpha is None else float(alpha.item()) * channels
    if limit:
        norm = skew.flatten().norm()
        skew = skew * ((norm.clamp(max=limit) + _TINY) / (norm + _TINY))
    one = torch.eye(skew.shape[-1], device=skew.device)
    return (one + skew) @ (one - skew).inverse()


def _blockwise(blocks: Tensor, weight: Tensor) -> Tensor:
    parted = weight.reshape(blocks.shape[0], blocks.shape[1], *weight.shape[1:])
    return torch.einsum("knm,kn...->km...", blocks, parted).reshape(weight.shape)


def _butterfly(stages: Tensor, weight: Tensor) -> Tensor:
    """Stage i mixes channels that lie 2**i half blocks apart."""
    size = stages.shape[-1]
    result = weight
    for index, blocks in enumerate(stages):
        stride = 2**index * (size // 2)
        shuffled = _swap(result, 2, stride)
        parted = shuffled.reshape(-1, size, *weight.shape[1:])
        if len(parted) != len(blocks):
            raise RuntimeError(f"{len(blocks)} blocks of {size} do not fit {len(weight)} channels.")
        mixed = torch.einsum("bij,bj...->bi...", blocks, parted).reshape(weight.shape)
        result = _swap(mixed, stride, 2)
    return result


def _swap(weight: Tensor, outer: int, inner: int) -> Tensor:
    """Channels in groups of outer * inner: those that came row by row come column by column."""
    grouped = weight.reshape(-1, outer, inner, *weight.shape[1:])
    return grouped.transpose(1, 2).reshape(weight.shape)
