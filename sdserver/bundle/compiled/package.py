"""A compiled network from disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

PREFIX = "unet."


class Package(Protocol):
    """Machine code that computes with tensors it is given.

    Attributes:
        names: of the network's parameters that it reads.
        owner: whose tensors it reads now, None for nobody's.
    """

    names: tuple[str, ...]
    owner: object | None

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Have it read these from now on; they are neither copied nor kept from being freed."""
        ...

    def run(self, inputs: Sequence[Tensor]) -> Tensor:
        """The network's output."""
        ...


Open = Callable[[Path], Package]


class AotPackage:
    """What AOTInductor has made."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self._loader = loaded.loader
        self.owner: object | None = None
        self.names = tuple(name.removeprefix(PREFIX) for name in loaded.get_constant_fqns())

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        named = {PREFIX + name: tensor for name, tensor in tensors.items()}
        self._loaded.load_constants(named, check_full_update=True, user_managed=True)

    def run(self, inputs: Sequence[Tensor]) -> Tensor:
        (output,) = self._loader.boxed_run(list(inputs))
        result: Tensor = output
        return result


def open_package(path: Path, device_index: int = -1) -> AotPackage:
    """Load a package; it is machine code, so its file must be trusted.

    Args:
        path: its file.
        device_index: which of the devices of its kind it is to run on, -1 for the present one.
    """
    import torch._inductor as inductor  # noqa: PLC0415 - takes long to import, and few need it

    return AotPackage(
        inductor.aoti_load_package(str(path), run_single_threaded=True, device_index=device_index)
    )
