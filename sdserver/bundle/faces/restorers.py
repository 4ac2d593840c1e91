"""Networks that restore faces: GFPGAN and CodeFormer, through spandrel."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdserver.bundle.faces.files import DAMAGES, read_tensors, unreadable
from sdserver.bundle.upscaler import torchvision_stood_in
from sdserver.errors import UnsupportedCheckpoint
from sdserver.jobs.job import FaceRestorer, FaceRestorerKind

_EXTRA: Final = "spandrel_extra_arches"

Call = Callable[[Any, Tensor, float], Tensor]


def _gfpgan(network: Any, face: Tensor, _weight: float) -> Tensor:
    """The noise is the file's own, not random: a seed's picture is the same each time."""
    result: Tensor = network(face, return_rgb=False, randomize_noise=False)[0]
    return result


def _codeformer(network: Any, face: Tensor, weight: float) -> Tensor:
    result: Tensor = network(face, weight=weight)[0]
    return result


_CALLS: Final[dict[FaceRestorerKind, Call]] = {"GFPGAN": _gfpgan, "CodeFormer": _codeformer}


def load_restorer(path: Path, kind: FaceRestorerKind, *, allow_pickle: bool) -> nn.Module:
    """The network of a file, in float32 and on the CPU; it only infers.

    Raises:
        UnreadableCheckpoint: the file is missing or damaged.
        UnsupportedCheckpoint: it is a pickle and those are not allowed, or another network's; or what
            runs CodeFormer is not installed.
    """
    tensors = read_tensors(path, allow_pickle=allow_pickle)
    with torchvision_stood_in():
        import spandrel  # noqa: PLC0415 - only where faces are restored

        registry = spandrel.MAIN_REGISTRY if kind == "GFPGAN" else _extra_registry()
    loader = spandrel.ModelLoader("cpu", registry)
    try:
        found = loader.load_from_state_dict(spandrel.canonicalize_state_dict(tensors))
    except spandrel.UnsupportedModelError as error:
        raise _other(path, kind) from error
    except DAMAGES as error:
        raise unreadable(path, error) from error
    if found.architecture.id != kind:
        raise _other(path, kind)
    network: nn.Module = found.model
    return network.to(torch.float32).eval().requires_grad_(False)


def restored(network: Any, restorer: FaceRestorer, face: Tensor) -> Tensor:
    """A face (1, 3, 512, 512), -1 to 1, as the network makes it: likewise, about."""
    return _CALLS[restorer.kind](network, face, restorer.weight)


def _extra_registry() -> Any:
    """What knows CodeFormer: a package of its own, for its licence forbids commercial use."""
    try:
        with warnings.catch_warnings():
            # It compiles a function by what torch has declared outdated.
            warnings.simplefilter("ignore")
            from spandrel_extra_arches import EXTRA_REGISTRY  # noqa: PLC0415 - it need not be installed
    except ImportError as error:
        raise UnsupportedCheckpoint(
            f"CodeFormer takes the package {_EXTRA}, which is not installed: install it, or choose GFPGAN."
        ) from error
    return EXTRA_REGISTRY


def _other(path: Path, kind: FaceRestorerKind) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(f"The network {path.name} is no {kind}: put another file in its place.")
