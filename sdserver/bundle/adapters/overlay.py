"""Overlays: what a set of adapters puts in the place of a checkpoint's own parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdserver.bundle.adapters.hypernetworks import Hypernetwork

Slot = tuple[nn.Module, str]
"""A layer and a parameter's name in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """Changed parameters, and hypernetworks in the order they are applied."""

    parameters: Mapping[Slot, nn.Parameter]
    hypernetworks: tuple[Hypernetwork, ...] = ()

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        own = sum(parameter.nbytes for parameter in self.parameters.values())
        return own + sum(hypernetwork.bytes for hypernetwork in self.hypernetworks)


NOTHING = Overlay({})


class Switch:
    """Puts overlays over networks and takes them off. No tensor is written or copied.

    Args:
        unet: whose attention hypernetworks change.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._projections = [
            (module, place.endswith(".to_k"))
            for place, module in unet.named_modules()
            if place.endswith((".to_k", ".to_v"))
        ]
        self._active = NOTHING
        self._own: dict[Slot, nn.Parameter | None] = {}
        self._hooks: list[RemovableHandle] = []

    @property
    def active(self) -> Overlay:
        """The overlay that the networks run with."""
        return self._active

    def to(self, overlay: Overlay) -> None:
        """Have the networks run with this overlay and no other."""
        if overlay is self._active:
            return
        for (module, name), parameter in self._own.items():
            module._parameters[name] = parameter
        for hook in self._hooks:
            hook.remove()
        self._own = {(module, name): module._parameters[name] for module, name in overlay.parameters}
        for (module, name), parameter in overlay.parameters.items():
            module._parameters[name] = parameter
        self._hooks = self._hook(overlay.hypernetworks) if overlay.hypernetworks else []
        self._active = overlay

    def _hook(self, hypernetworks: tuple[Hypernetwork, ...]) -> list[RemovableHandle]:
        """Have the hypernetworks change what keys and values are computed from."""
        return [
            module.register_forward_pre_hook(_Adapting(hypernetworks, is_key))
            for module, is_key in self._projections
        ]


class _Adapting:
    """A forward pre-hook: the context of a key or value projection through all hypernetworks."""

    def __init__(self, hypernetworks: tuple[Hypernetwork, ...], is_key: bool) -> None:
        self._hypernetworks = hypernetworks
        self._is_key = is_key

    def __call__(self, _module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        context, *others = given
        for hypernetwork in self._hypernetworks:
            context = hypernetwork.adapt(context, is_key=self._is_key)
        return (context, *others)
