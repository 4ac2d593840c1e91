"""A checkpoint's networks under changing sets of adapters."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sdserver.bundle.adapters.hypernetworks import read_hypernetwork
from sdserver.bundle.adapters.merge import merge
from sdserver.bundle.adapters.names import find_layers
from sdserver.bundle.adapters.overlay import NOTHING, Overlay, Switch
from sdserver.bundle.device import Placement
from sdserver.bundle.memory import host_memory, is_out_of_memory, release, spare_of
from sdserver.bundle.parts import Parts
from sdserver.errors import OutOfMemory, UnusableAdapter
from sdserver.jobs.model import Adapter

GIB: Final = 1 << 30
OVERLAY_BYTES: Final = 4 * GIB
"""Memory for changed parameters that are kept for later calls, by default."""

Adapters = tuple[Adapter, ...]
_Stamps = tuple[tuple[int, int], ...]


class Adapted:
    """Switches a checkpoint's UNet and text encoders to sets of adapters and back.

    The checkpoint's own parameters are never written: changed ones stand in for them (an overlay), and
    overlays used last are kept.

    Args:
        parts: the checkpoint; its UNet as it is run.
        allow_pickle: whether .pt and .ckpt files of the LoRA family may be read (weights only).
            Hypernetworks are nothing else and are always read so.
        max_bytes: memory for overlays; the one in use is kept whatever its size.
    """

    def __init__(
        self, parts: Parts, placement: Placement, *, allow_pickle: bool, max_bytes: int = OVERLAY_BYTES
    ) -> None:
        self._family = parts.spec.family
        self._device = placement.device
        self._allow_pickle = allow_pickle
        self._max_bytes = max_bytes
        text = list(zip(parts.spec.text, parts.text, strict=True))
        self._layers = find_layers(parts.unet, text, self._family)
        self._switch = Switch(parts.unet)
        self._kept: OrderedDict[Adapters, tuple[_Stamps, Overlay]] = OrderedDict()

    def use(self, adapters: Adapters, *, look_again: bool = False) -> None:
        """Have the networks run with these adapters and no others.

        Args:
            adapters: in the order they are applied; none is the checkpoint as it is.
            look_again: whether files that have changed since they were read are read again.

        Raises:
            UnusableAdapter: a file is missing, damaged, of an unknown kind or of another family. The
                networks then run without adapters.
            OutOfMemory: the device's memory does not suffice.
        """
        if not adapters:
            self._switch.to(NOTHING)
            return
        if look_again and adapters in self._kept and self._kept[adapters][0] != _stamps(adapters):
            del self._kept[adapters]
        if adapters not in self._kept:
            self._switch.to(NOTHING)
            self._keep(adapters)
        self._kept.move_to_end(adapters)
        self._switch.to(self._kept[adapters][1])

    def is_using(self, adapters: Adapters) -> bool:
        """Whether the networks run with these adapters now."""
        kept = self._kept.get(adapters)
        return self._switch.active is (kept[1] if kept else NOTHING) and bool(kept) == bool(adapters)

    def drop_unused(self) -> None:
        """Free the memory of overlays that are not in use."""
        for adapters, (_, overlay) in list(self._kept.items()):
            if overlay is not self._switch.active:
                del self._kept[adapters]

    def _keep(self, adapters: Adapters) -> None:
        """Build the overlay and keep it; others make room."""
        stamps = _stamps(adapters)
        try:
            overlay = self._build(adapters)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            overlay = None
        if overlay is None:
            self._kept.clear()
            release(self._device)
            overlay = self._build_or_refuse(adapters)
        self._kept[adapters] = stamps, overlay
        while len(self._kept) > 1 and self._keeps_too_much():
            self._kept.popitem(last=False)

    def _keeps_too_much(self) -> bool:
        """An accelerator says by itself when its memory does not suffice; a CPU's is others' too."""
        is_short = self._device.type == "cpu" and spare_of(host_memory()) == 0
        return is_short or sum(kept.bytes for _, kept in self._kept.values()) > self._max_bytes

    def _build_or_refuse(self, adapters: Adapters) -> Overlay:
        try:
            return self._build(adapters)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release(self._device)
        raise OutOfMemory("The device's memory does not suffice for the adapters: use fewer or smaller ones.")

    def _build(self, adapters: Iterable[Adapter]) -> Overlay:
        loras = [adapter for adapter in adapters if adapter.kind == "lora"]
        hypernetworks = tuple(
            read_hypernetwork(Path(adapter.path), adapter.unet_weight, self._device)
            for adapter in adapters
            if adapter.kind == "hypernetwork"
        )
        merged = merge(loras, self._layers, family=self._family, allow_pickle=self._allow_pickle)
        return Overlay(merged, hypernetworks)


def _stamps(adapters: Iterable[Adapter]) -> _Stamps:
    """Time and size of each file."""
    found: list[tuple[int, int]] = []
    for adapter in adapters:
        try:
            status = Path(adapter.path).stat()
        except OSError as error:
            raise UnusableAdapter(f"{Path(adapter.path).name} cannot be read: {error.strerror}.") from error
        found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)
