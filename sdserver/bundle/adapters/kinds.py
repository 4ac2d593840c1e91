"""What a layer's tensors in a file do to its weight: one formula per kind of adapter.

The formulas and their order of arithmetic are those that AUTOMATIC1111 1.10.1 merges by; where it
differs from LyCORIS, which most such files come from, that is said. All tensors are float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sdserver.bundle.adapters.orthogonal import rotated

Parts = Mapping[str, Tensor]
"""A layer's tensors by the part that they are, such as `lora_up.weight`."""

_LORA = ("lora_up.weight", "lora_down.weight")
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_GLORA = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


class Misfit(RuntimeError):
    """The tensors' shapes do not fit the layer."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is added to a layer at strength 1; None is nothing."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Raw:
    """A change before scale and weight decomposition. `rank` None: alpha is not heeded."""

    weight: Tensor
    rank: int | None = None
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    fits: Callable[[frozenset[str]], bool]
    compute: Callable[[Parts, Tensor, int | None], _Raw]


def is_known(names: frozenset[str]) -> bool:
    """Whether parts of these names make an adapter of a kind that is known."""
    return any(kind.fits(names) for kind in _KINDS)


def change(parts: Parts, weight: Tensor, dyn_dim: int | None) -> Change:
    """What the parts add to a layer's weight, in the weight's shape.

    Args:
        parts: for which `is_known` holds.
        weight: of the layer, changed by the adapters before this one.
        dyn_dim: rank to which LoRA's matrices are cut; the scale stays that of the full rank.

    Raises:
        RuntimeError: shapes do not fit.
    """
    names = frozenset(parts)
    raw = next(kind for kind in _KINDS if kind.fits(names)).compute(parts, weight, dyn_dim)
    added = raw.weight
    if "bias" in parts:
        added = (added.reshape(parts["bias"].shape) + parts["bias"]).reshape(added.shape)
    added = _shaped(added, weight) * _scale(parts, raw.rank)
    if "dora_scale" in parts:
        added = _decomposed(added, weight, parts["dora_scale"])
    if added.shape != weight.shape:
        raise Misfit(f"A change of shape {list(added.shape)} does not fit {list(weight.shape)}.")
    return Change(added, raw.bias)


def _shaped(added: Tensor, weight: Tensor) -> Tensor:
    """In the weight's shape: a linear layer may stand for a 1x1 convolution and the other way round. The
    channels that an inpainting network has over others stay as they are.
    """
    if added.numel() == weight.numel():
        return added.reshape(weight.shape)
    if weight.ndim == 4 and weight.shape[1] == 9 and added.ndim == 4 and added.shape[1] == 4:
        return torch.nn.functional.pad(added, (0, 0, 0, 0, 0, 5))
    raise Misfit(f"A change of shape {list(added.shape)} does not fit {list(weight.shape)}.")


def _scale(parts: Parts, rank: int | None) -> float:
    if any(name in parts for name in ("oft_blocks", "oft_diag")):
        return 1.0
    if "scale" in parts:
        return float(parts["scale"].item())
    if rank is not None and "alpha" in parts:
        return float(parts["alpha"].item()) / rank
    return 1.0


def _decomposed(added: Tensor, weight: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA: direction and magnitude apart (Liu et al., 2024).

    The norm is taken per input channel whatever the magnitude's shape: AUTOMATIC1111 does not know
    LyCORIS' `wd_on_output`.
    """
    merged = weight + added
    norm = merged.transpose(0, 1).reshape(merged.shape[1], -1).norm(dim=1, keepdim=True)
    norm = norm.reshape(merged.shape[1], *[1] * (merged.ndim - 1)).transpose(0, 1)
    decomposed: Tensor = merged * (magnitude / norm) - weight
    return decomposed


def _lora(parts: Parts, _weight: Tensor, dyn_dim: int | None) -> _Raw:
    """LoRA, and LoCon's convolutions, with a core tensor `lora_mid` or without."""
    up, down = parts["lora_up.weight"], parts["lora_down.weight"]
    rank, tail = down.shape[0], down.shape[1:]
    up, down = up.reshape(up.shape[0], -1), down.reshape(rank, -1)
    if "lora_mid.weight" in parts:
        return _Raw(torch.einsum("nmkl,in,mj->ijkl", parts["lora_mid.weight"], up, down), rank)
    if dyn_dim:
        up, down = up[:, :dyn_dim], down[:dyn_dim]
    return _Raw((up @ down).reshape(up.shape[0], *tail), rank)


def _hada(parts: Parts, _weight: Tensor, _dyn_dim: int | None) -> _Raw:
    """LoHa: the product, value by value, of two low-rank matrices (Hyeon-Woo et al., 2022)."""
    halves = []
    for number in "12":
        left, right = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
        core = parts.get(f"hada_t{number}")
        flat = left.reshape(left.shape[0], -1), right.reshape(right.shape[0], -1)
        halves.append(flat[0] @ flat[1] if core is None else _tucker(core, left, right))
    return _Raw(halves[0] * halves[1], parts["hada_w1_b"].shape[0])


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(out, in, k, k) of a core (rank, rank, k, k), left (rank, out) and right (rank, in)."""
    half = torch.einsum("ijkl,jr->irkl", core, right)
    return torch.einsum("ijkl,ir->rjkl", half, left)


def _lokr(parts: Parts, _weight: Tensor, _dyn_dim: int | None) -> _Raw:
    """LoKr: a Kronecker product, each half of it whole or of low rank. Two whole ones have no scale."""
    rank = None
    first = parts.get("lokr_w1")
    if first is None:
        first, rank = parts["lokr_w1_a"] @ parts["lokr_w1_b"], parts["lokr_w1_b"].shape[0]
    second = parts.get("lokr_w2")
    if second is None:
        left, right = parts["lokr_w2_a"], parts["lokr_w2_b"]
        rank = right.shape[0]
        if "lokr_t2" in parts:
            second = _tucker(parts["lokr_t2"], left, right)
        else:
            second = (left @ right.reshape(rank, -1)).reshape(left.shape[0], *right.shape[1:])
    if second.ndim == 4:
        first = first.unsqueeze(2).unsqueeze(2)
    return _Raw(torch.kron(first, second.contiguous()), rank)


def _ia3(parts: Parts, weight: Tensor, _dyn_dim: int | None) -> _Raw:
    """IA3: the weight itself, scaled per input or output channel (Liu et al., 2022)."""
    factor = parts["weight"]
    return _Raw(weight * (factor if parts["on_input"].item() else factor.reshape(-1, 1)))


def _full(parts: Parts, _weight: Tensor, _dyn_dim: int | None) -> _Raw:
    return _Raw(parts["diff"], bias=parts.get("diff_b"))


def _norm(parts: Parts, _weight: Tensor, _dyn_dim: int | None) -> _Raw:
    return _Raw(parts["w_norm"], bias=parts.get("b_norm"))


def _glora(parts: Parts, weight: Tensor, _dyn_dim: int | None) -> _Raw:
    """GLoRA: low-rank matrices added to the weight and multiplied with it (Chavan et al., 2023).

    In old files the first matrix is the one that reads, and AUTOMATIC1111 heeds no alpha; LyCORIS has
    turned both round since, which AUTOMATIC1111 cannot read.
    """
    a1, a2, b1, b2 = (parts[name].reshape(parts[name].shape[0], -1) for name in _GLORA)
    flat = weight.reshape(weight.shape[0], weight.shape[1], -1)
    is_old = b2.shape[1] == b1.shape[0] and a2.shape[1] == a1.shape[0] and a1.shape[1] == weight.shape[1]
    reads, writes, added = (a1, a2, b2 @ b1) if is_old else (a2, a1, b1 @ b2)
    multiplied = torch.einsum("oik,ir,rj->ojk", flat, writes, reads)
    added = added.reshape(weight.shape) + multiplied.reshape(weight.shape)
    return _Raw(added, None if is_old else len(reads))


def _rotation(parts: Parts, weight: Tensor, _dyn_dim: int | None) -> _Raw:
    return _Raw(rotated(parts, weight) - weight)


def _has(*wanted: str) -> Callable[[frozenset[str]], bool]:
    return frozenset(wanted).issubset


def _has_lokr(names: frozenset[str]) -> bool:
    return all(f"lokr_w{half}" in names or {f"lokr_w{half}_a", f"lokr_w{half}_b"} <= names for half in (1, 2))


def _has_rotation(names: frozenset[str]) -> bool:
    return "oft_blocks" in names or "oft_diag" in names


_KINDS = (
    _Kind(_has(*_LORA), _lora),
    _Kind(_has(*_HADA), _hada),
    _Kind(_has("weight", "on_input"), _ia3),
    _Kind(_has_lokr, _lokr),
    _Kind(_has("diff"), _full),
    _Kind(_has("w_norm"), _norm),
    _Kind(_has(*_GLORA), _glora),
    _Kind(_has_rotation, _rotation),
)
"""In the order in which they are tried."""
