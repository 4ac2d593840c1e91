"""A network's compiled twin: which calls it takes, and its proof."""

import logging
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdserver.bundle.compiled.blank import MAX_ROWS, MAX_SIDE, MAX_TOKENS, STEP
from sdserver.bundle.compiled.blueprint import blueprint
from sdserver.bundle.compiled.package import Package
from sdserver.bundle.compiled.race import Race
from sdserver.bundle.compiled.workshop import Workshop
from sdserver.bundle.device import Placement
from sdserver.bundle.faster import Evaluate
from sdserver.bundle.memory import is_out_of_memory

log = logging.getLogger(__name__)

Special = tuple[bool, bool, bool]
"""Whether there is a single row, and whether height and width are the least: what a compiler may have taken
for impossible.
"""

TOLERANCES: Final[Mapping[torch.dtype, float]] = {
    torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1
}  # fmt: skip
"""How far compiled output may be from eager output, as a share of its greatest value: rounding stays far
below, a wrong program far above.
"""

_LEAST: Final = 1e-12

Layout = tuple[torch.dtype, torch.device, tuple[int, ...], tuple[int, ...]]
"""Type, place, sides and strides of a parameter."""


class Compiled:
    """Stands between a network and its callers, once its machine code is there.

    The code reads the parameters that the network has at the moment of the call, those that adapters put in
    their place included. It is passed by where the network is changed otherwise (hypernetworks, merged
    tokens, tiles, circular padding) and for sizes that it was not made for.

    The first call of each special kind is evaluated both ways and answered by the eager way; if the results
    differ, the code is not used any more. On a CPU it is used only for shapes that it is faster for.

    Args:
        unet: diffusers' UNet2DConditionModel as it runs, with its weights.
        placement: the network's.
        workshop: where it is compiled.
        race: tells which way is faster.
    """

    def __init__(
        self, unet: nn.Module, placement: Placement, workshop: Workshop, race: Race | None = None
    ) -> None:
        self._unet: Any = unet
        self._workshop = workshop
        self._tolerance = TOLERANCES[placement.dtype]
        self._blueprint = blueprint(unet, placement)
        self._key = self._blueprint.key()
        self._slots: list[tuple[nn.Module, str]] | None = None
        self._hooks = [
            hooks for module in unet.modules() for hooks in (module._forward_pre_hooks, module._forward_hooks)
        ]
        self._layouts = _layouts(unet, placement)
        self._bound: list[tuple[Tensor, Tensor]] = []
        self._places: list[int] = []
        self._proven: set[Special] = set()
        self._race = race or Race()
        self._is_given_up = False
        workshop.ask(self._key, self._blueprint)

    def predict(
        self,
        evaluate: Evaluate,
        sample: Tensor,
        timesteps: Tensor,
        context: Evaluate,
        vector: Tensor | None,
    ) -> Tensor:
        """See `faster.Faster`."""
        package = None if self._is_given_up else self._workshop.ask(self._key, self._blueprint)
        if package is None or any(self._hooks) or not self._fits(sample):
            return evaluate()
        whole = context()
        if whole.shape[1] > MAX_TOKENS or not self._bind(package):
            return evaluate()
        inputs = [sample, timesteps, whole.contiguous(), self._unet.conv_out.bias]
        inputs += [] if vector is None else [vector.contiguous()]
        rows, _, height, width = sample.shape
        special = (rows == 1, height == STEP, width == STEP)
        if special not in self._proven:
            return self._prove(package, special, evaluate, inputs)
        # Another device works on after a call has returned: there, times would tell nothing.
        is_timed = sample.device.type == "cpu"
        shape = tuple(sample.shape)
        if is_timed and self._race.next_way(shape) == "eager":
            return self._race.timed(shape, "eager", evaluate)
        found = self._race.timed(shape, "compiled", lambda: self._run(package, inputs))
        return evaluate() if found is None else found

    def release(self) -> None:
        """Let go of the network's parameters, which will move."""
        self._bound, self._places = [], []

    def _fits(self, sample: Tensor) -> bool:
        rows, _, height, width = sample.shape
        is_even = height % STEP == width % STEP == 0
        is_small = rows <= MAX_ROWS and height <= MAX_SIDE and width <= MAX_SIDE
        return is_even and is_small and self._unet.conv_in.padding_mode == "zeros"

    def _bind(self, package: Package) -> bool:
        """Have the code read the network's present parameters; whether it can."""
        if self._slots is None:
            self._slots = [_slot(self._unet, name) for name in package.names]
        tensors = [module._parameters[leaf] for module, leaf in self._slots]
        places = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        is_same = all(one is own for one, (own, _) in zip(tensors, self._bound, strict=False))
        if is_same and places == self._places and package.owner is self:
            return True
        bound: list[tuple[Tensor, Tensor]] = []
        for name, tensor in zip(package.names, tensors, strict=True):
            if tensor is None or _layout(tensor) != self._layouts.get(name):
                return False
            bound.append((tensor, tensor.detach()))
        package.owner = None
        package.bind({name: read for name, (_, read) in zip(package.names, bound, strict=True)})
        package.owner, self._places = self, places
        # Memory that the code reads must not be given to others, even where a parameter has moved on.
        self._bound = bound
        return True

    def _run(self, package: Package, inputs: list[Tensor]) -> Tensor | None:
        """The code's output; None if it failed, which it may do once."""
        try:
            return package.run(inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            log.warning("The compiled UNet is not used any more, it failed: %s", str(error).splitlines()[0])
        self._is_given_up = True
        return None

    def _prove(self, package: Package, special: Special, evaluate: Evaluate, inputs: list[Tensor]) -> Tensor:
        """The eager result, with which the code's is compared."""
        expected = evaluate()
        if not self._proven:
            self._workshop.trying(self._key)
        found = self._run(package, inputs)
        self._workshop.tried(self._key)
        if found is None or not expected.isfinite().all():
            return expected
        difference = ((found - expected).abs().max() / expected.abs().max().clamp_min(_LEAST)).item()
        if difference <= self._tolerance:
            self._proven.add(special)
            log.info("The compiled UNet is used; it differs by %.1e of the greatest value.", difference)
        else:
            self._is_given_up = True
            log.warning("The compiled UNet is not used: it is off by %.1e of the greatest value.", difference)
        return expected


def _slot(unet: Any, name: str) -> tuple[nn.Module, str]:
    place, _, leaf = name.rpartition(".")
    return unet.get_submodule(place), leaf


def _layout(tensor: Tensor) -> Layout:
    """How a tensor lies in memory; strides along sides of length 1 mean nothing."""
    strides = tuple(
        stride if side > 1 else 0 for side, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor.dtype, tensor.device, tuple(tensor.shape), strides


def _layouts(unet: nn.Module, placement: Placement) -> Mapping[str, Layout]:
    """How the code takes the parameters to lie: as in a network in `channels_last` order."""
    found: dict[str, Layout] = {}
    for name, parameter in unet.named_parameters():
        shape = torch.empty(parameter.shape, dtype=placement.dtype, device="meta")
        order = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
        _, _, sides, strides = _layout(shape.contiguous(memory_format=order))
        found[name] = placement.dtype, placement.device, sides, strides
    return found
