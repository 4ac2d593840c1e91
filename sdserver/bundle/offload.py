"""Networks that take turns on an accelerator whose memory is too small for all of them.

Those that do not run wait in the CPU's memory. Parameters are never written, so only the way to the device
costs a copy: on the way back, the copy there is dropped.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sdserver.bundle.parts import Parts
from sdserver.jobs.model import Family

log = logging.getLogger(__name__)

Offloading = Literal["none", "models", "models-sdxl", "layers"]
"""What takes turns: nothing, whole networks, those of SDXL alone, or networks and the UNet's blocks, too."""

_LISTS = ("resnets", "attentions", "downsamplers", "upsamplers")


class Mover:
    """Copies tensors to the device.

    Args:
        device: where networks run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Copies from pinned memory need not be waited for.
        self._pins = device.type == "cuda"

    @property
    def is_of_use(self) -> bool:
        """Whether the device has a memory of its own."""
        return self._device.type != "cpu"

    def at_home(self, tensor: Tensor) -> Tensor:
        """The same values in the CPU's memory, from where they are copied best."""
        home = tensor.cpu()
        if not self._pins or home.is_pinned():
            return home
        try:
            return home.pin_memory()
        except RuntimeError as error:
            log.warning("Networks take turns slowly, for memory cannot be pinned: %s", error)
            self._pins = False
            return home

    def there(self, tensor: Tensor) -> Tensor:
        """A copy on the device, in the same memory order."""
        return tensor.to(self._device, non_blocking=self._pins)


class _Lodger:
    """Some of a network's layers, which move together."""

    def __init__(self, mover: Mover, layers: Iterable[nn.Module]) -> None:
        self._mover = mover
        self._layers = tuple(layers)
        self._away: list[tuple[Tensor, Tensor]] = []
        self.is_there = False

    def go(self) -> None:
        """To the device; what stands in the place of own parameters now goes, too. All or nothing."""
        if self.is_there:
            return
        try:
            for tensor in self._tensors():
                home = self._mover.at_home(tensor.data)
                self._away.append((tensor, home))
                tensor.data = self._mover.there(home)
        except BaseException:
            self.come_home()
            raise
        self.is_there = True

    def come_home(self) -> None:
        """Give the device's memory back."""
        for tensor, home in self._away:
            # A VAE that overflows is made fp32 where it is.
            tensor.data = home if home.dtype == tensor.dtype else self._mover.at_home(tensor.data)
        self._away.clear()
        self.is_there = False

    def _tensors(self) -> Iterator[Tensor]:
        for layer in self._layers:
            for tensor in (*layer._parameters.values(), *layer._buffers.values()):
                if tensor is not None:
                    yield tensor


class Offload:
    """Has at most one of a checkpoint's networks on the device, brought there when it is called.

    Args:
        mover: copies tensors.
    """

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._rooms: dict[str, tuple[_Lodger, tuple[_Lodger, ...]]] = {}
        self._there: str | None = None

    @property
    def there(self) -> str | None:
        """The network on the device."""
        return self._there

    def lodge(self, name: str, network: nn.Module, pieces: Iterable[nn.Module] = ()) -> None:
        """Take a network that lies in the CPU's memory in.

        Args:
            name: by which it is asked for.
            network: all its parameters lie in the CPU's memory.
            pieces: of the network, without overlap, each of which comes only when it is called itself, and
                sends the one before it home; the rest stays while the network does.
        """
        pieces = tuple(pieces)
        inside = {id(layer) for piece in pieces for layer in piece.modules()}
        rest = _Lodger(self._mover, (layer for layer in network.modules() if id(layer) not in inside))
        lodgers = tuple(_Lodger(self._mover, piece.modules()) for piece in pieces)
        self._rooms[name] = rest, lodgers
        for piece, lodger in zip(pieces, lodgers, strict=True):
            piece.register_forward_pre_hook(_Alone(lodger, lodgers))

    def leave(self, name: str) -> None:
        """Forget a network; it must not run any more."""
        if self._there == name:
            self.come_home()
        self._rooms.pop(name, None)

    def have(self, name: str) -> None:
        """Have a network on the device, the others at home."""
        if self._there != name:
            self.come_home()
            self._rooms[name][0].go()
            self._there = name

    def come_home(self) -> None:
        """Have none on the device."""
        if self._there is not None:
            rest, pieces = self._rooms[self._there]
            for lodger in (rest, *pieces):
                lodger.come_home()
            self._there = None

    def calls(self, name: str, layers: Iterable[nn.Module]) -> None:
        """Bring a network whenever one of these layers of it is called."""
        for layer in layers:
            layer.register_forward_pre_hook(_Bringing(self, name))


class _Alone:
    """A forward pre-hook: brings a piece and sends the others of its network home."""

    def __init__(self, lodger: _Lodger, others: tuple[_Lodger, ...]) -> None:
        self._lodger = lodger
        self._others = others

    def __call__(self, _module: nn.Module, _given: object) -> None:
        if not self._lodger.is_there:
            for other in self._others:
                other.come_home()
            self._lodger.go()


class _Bringing:
    """A forward pre-hook: has a network on the device."""

    def __init__(self, offload: Offload, name: str) -> None:
        self._offload = offload
        self._name = name

    def __call__(self, _module: nn.Module, _given: object) -> None:
        self._offload.have(self._name)


def offloads(offloading: Offloading, family: Family) -> bool:
    """Whether networks of a family take turns."""
    return offloading != "none" and (offloading != "models-sdxl" or family == "sdxl")


def lodged(parts: Parts, mover: Mover, offloading: Offloading) -> Offload:
    """A checkpoint's text encoders and UNet, which lie in the CPU's memory, taken in.

    The text encoders come when they are called; the UNet, called `unet`, when it is asked for.
    """
    offload = Offload(mover)
    offload.lodge("text", nn.ModuleList(parts.text))
    offload.calls("text", parts.text)
    offload.lodge("unet", parts.unet, pieces_of(parts.unet) if offloading == "layers" else ())
    return offload


def lodge_vae(offload: Offload, name: str, vae: Any) -> None:
    """Take an autoencoder in, which comes when it is called."""
    offload.lodge(name, vae)
    layers = (vae.encoder, vae.quant_conv, vae.post_quant_conv, vae.decoder)
    offload.calls(name, (layer for layer in layers if layer is not None))


def pieces_of(unet: Any) -> list[nn.Module]:
    """The residual blocks, transformers and samplings of a UNet, which run one after the other."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [piece for block in blocks for name in _LISTS for piece in getattr(block, name, None) or ()]
