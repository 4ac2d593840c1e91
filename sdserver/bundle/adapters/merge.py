"""Merging: a checkpoint's parameters as a set of adapters changes them."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sdserver.bundle.adapters.file import AdapterFile, open_adapter
from sdserver.bundle.adapters.kinds import Change, Misfit, change
from sdserver.bundle.adapters.names import Layer, Layers
from sdserver.bundle.adapters.overlay import Slot
from sdserver.bundle.fp8 import own_values
from sdserver.bundle.memory import is_out_of_memory
from sdserver.errors import UnusableAdapter
from sdserver.jobs.model import Adapter

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Open:
    """An adapter, its open file, and how many of its layers fitted."""

    adapter: Adapter
    file: AdapterFile
    fitting: int = 0
    misfits: list[str] = field(default_factory=list)


def merge(
    adapters: Sequence[Adapter], layers: Layers, *, family: str, allow_pickle: bool
) -> dict[Slot, nn.Parameter]:
    """The parameters that adapters of the LoRA family change, one adapter after the other.

    A layer's own parameters are read and never written. A layer whose shape a file does not fit is left
    out with a warning, as AUTOMATIC1111 does.

    Args:
        adapters: in the order they are applied.
        layers: with their own parameters in place.
        family: of the checkpoint, for messages.
        allow_pickle: whether pickled files may be read (weights only).

    Raises:
        UnusableAdapter: a file is damaged, of an unknown kind, or fits none of the layers it names.
        RuntimeError: the device's memory does not suffice.
    """
    with ExitStack() as stack:
        opened = [
            _Open(
                adapter,
                stack.enter_context(open_adapter(Path(adapter.path), layers, allow_pickle=allow_pickle)),
            )
            for adapter in _last_strengths(adapters)
        ]
        by_key = {layer.key: layer for layer in layers.values()}
        keys = dict.fromkeys(key for one in opened for key in one.file.names)
        merged: dict[Slot, nn.Parameter] = {}
        for key in keys:
            merged |= _merge_layer(by_key[key], [one for one in opened if key in one.file.names])
    for one in opened:
        _judge(one, family)
    return merged


def _last_strengths(adapters: Sequence[Adapter]) -> list[Adapter]:
    """A file that is named twice counts twice, both times as the last one says: AUTOMATIC1111's way."""
    last = {adapter.path: adapter for adapter in adapters}
    return [last[adapter.path] for adapter in adapters]


def _merge_layer(layer: Layer, opened: Sequence[_Open]) -> Mapping[Slot, nn.Parameter]:
    weight = layer.module.get_parameter("weight")
    wide = own_values(layer.module, "weight")
    assert wide is not None  # noqa: S101 - every such layer has a weight
    bias: Tensor | None = None
    is_changed = False
    for one in opened:
        strength = one.adapter.text_weight if layer.is_text else one.adapter.unet_weight
        found = _change(one, layer, wide)
        if found is None or strength == 0:
            continue
        is_changed = True
        wide = wide + found.weight * strength
        if found.bias is not None:
            added = found.bias * strength
            start = own_values(layer.module, "bias") if bias is None else bias
            bias = added if start is None else start + added.reshape(start.shape)
    if not is_changed:
        return {}
    merged = {(layer.module, "weight"): _like(weight, wide)}
    if bias is not None:
        merged[layer.module, "bias"] = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    return merged


def _change(one: _Open, layer: Layer, wide: Tensor) -> Change | None:
    """What one file adds to a layer, or None where it does not fit."""
    parts = one.file.parts(layer.key, wide.device)
    try:
        found = change(parts, wide, one.adapter.dyn_dim)
        if found.bias is not None and found.bias.numel() != wide.shape[0]:
            raise Misfit(f"A bias of shape {list(found.bias.shape)} does not fit {wide.shape[0]} channels.")
    except (RuntimeError, IndexError, KeyError, ZeroDivisionError) as error:
        if is_out_of_memory(error):
            raise
        one.misfits.append(layer.key)
        return None
    one.fitting += 1
    return found


def _like(own: nn.Parameter, wide: Tensor) -> nn.Parameter:
    """In the type and memory order of the layer's own weight."""
    order = torch.channels_last if own.ndim == 4 else torch.contiguous_format
    return nn.Parameter(wide.to(own.dtype, memory_format=order), requires_grad=False)


def _judge(one: _Open, family: str) -> None:
    if not one.misfits:
        return
    name, count = one.file.path.name, len(one.misfits)
    if not one.fitting:
        message = (
            f"{name} fits no layer of this {family} checkpoint ({one.misfits[0]} for one): "
            "it is made for another family."
        )
        raise UnusableAdapter(message)
    log.warning("%s: %d of %d layers do not fit this checkpoint", name, count, count + one.fitting)
