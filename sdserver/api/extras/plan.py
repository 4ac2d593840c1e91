"""What a request for extras comes to: upscalers, restorers, sizes of results. Checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sdserver.api.config import Limits
from sdserver.api.extras.request import NO_UPSCALER, TO_SIZE, ExtrasRequest
from sdserver.api.options import Snapshot
from sdserver.api.translate.faces import restorer_of
from sdserver.catalog.networks import Networks
from sdserver.catalog.upscalers import FACTOR
from sdserver.errors import InvalidField
from sdserver.images.enlarge import FILTERS
from sdserver.images.infotext import InfoValue, quote
from sdserver.jobs.job import FaceStep

CELL: Final = 8
"""The sides of a result are multiples of this, as in AUTOMATIC1111."""

MAX_ROUNDS: Final = 3
"""How often a network is applied at most."""

NO_WEIGHT: Final = 0.0
"""GFPGAN's."""

_LONGEST_SIDE: Final = 2.0**31
_SHOWN: Final = 100
_MOST_NAMES: Final = 30


@dataclass(frozen=True, slots=True)
class Upscaler:
    """Enlarges pictures.

    Attributes:
        path: the network's file, empty for a filter.
    """

    name: str
    path: str

    @property
    def is_network(self) -> bool:
        """Whether it runs in the engine."""
        return bool(self.path)


@dataclass(frozen=True, slots=True)
class Upscalers:
    """Those of a request, at least one.

    Attributes:
        second: None where its share is 0.
        share: of the second, 0 to 1.
    """

    first: Upscaler
    second: Upscaler | None
    share: float

    @property
    def all(self) -> tuple[Upscaler, ...]:
        """One or both."""
        return (self.first,) if self.second is None else (self.first, self.second)


@dataclass(frozen=True, slots=True)
class Target:
    """What one picture is brought to.

    Attributes:
        factor: by how much it is enlarged.
        size: width and height that this comes to.
        crop: what is cut out of that, None for all of it.
    """

    factor: float
    size: tuple[int, int]
    crop: tuple[int, int] | None

    @property
    def pixels(self) -> int:
        """Of the larger of both."""
        sizes = [self.size, self.crop or self.size]
        return max(width * height for width, height in sizes)


def upscalers_of(request: ExtrasRequest, networks: Networks) -> Upscalers | None:
    """The request's upscalers; None where its pictures stay as they are.

    Raises:
        InvalidField: there is no upscaler of that name.
        RequestError: it is a pickle, and those are not allowed.
    """
    first = _upscaler(request.upscaler_1, "upscaler_1", networks)
    if first is None:
        return None
    second = _upscaler(request.upscaler_2, "upscaler_2", networks)
    share = request.extras_upscaler_2_visibility
    return Upscalers(first, second if share > 0 else None, share)


def face_steps(request: ExtrasRequest, options: Snapshot, networks: Networks) -> tuple[FaceStep, ...]:
    """How faces are restored, in AUTOMATIC1111's order; nothing where they stay as they are. Blocks.

    Raises:
        MissingModel: a file is not there.
        RequestError: a file is a pickle, and those are not allowed.
    """
    steps = []
    if request.gfpgan_visibility > 0:
        restorer = restorer_of("GFPGAN", options, networks, NO_WEIGHT)
        steps.append(FaceStep(restorer, request.gfpgan_visibility))
    if request.codeformer_visibility > 0:
        restorer = restorer_of("CodeFormer", options, networks, request.codeformer_weight)
        steps.append(FaceStep(restorer, request.codeformer_visibility))
    return tuple(steps)


def target_of(request: ExtrasRequest, size: tuple[int, int], upscalers: Upscalers, limits: Limits) -> Target:
    """What a picture of that size is brought to.

    Raises:
        InvalidField: the result would be too large, or have no pixels; or it is too much for a network.
    """
    width, height = size
    crop = None
    field, factor = "upscaling_resize", request.upscaling_resize
    if request.resize_mode == TO_SIZE:
        field, wanted = "upscaling_resize_w", (request.upscaling_resize_w, request.upscaling_resize_h)
        if max(wanted) > _LONGEST_SIDE:
            raise _too_large(field, limits)
        factor = max(wanted[0] / width, wanted[1] / height)
        crop = wanted if request.upscaling_crop else None
    if max(width, height) * factor > _LONGEST_SIDE:
        raise _too_large(field, limits)
    target = Target(factor, (_cells(width * factor), _cells(height * factor)), crop)
    if not all(target.size):
        message = (
            f"A picture of {width:,} x {height:,} pixels would vanish, for a result's sides are multiples of "
            f"{CELL}: ask for a larger result."
        )
        raise InvalidField(field, message)
    if target.pixels > limits.max_init_pixels:
        raise _too_large(field, limits)
    if any(upscaler.is_network for upscaler in upscalers.all):
        check_network(size, target, field, limits)
    return target


def check_sum(targets: Sequence[int], field: str, limits: Limits) -> None:
    """See that a request's results are not too large together.

    Args:
        targets: pixels of each.
        field: that is to blame.
        limits: of a node.

    Raises:
        InvalidField: they are.
    """
    most = limits.max_pixels * limits.max_images
    if sum(targets) > most:
        message = (
            f"The results would have {sum(targets):,} pixels together, at most {most:,} are allowed: send "
            "fewer pictures, or ask for smaller ones."
        )
        raise InvalidField(field, message)


def info_of(request: ExtrasRequest, upscalers: Upscalers | None) -> str:
    """What was done, as AUTOMATIC1111 writes it into a result."""
    info = {} if upscalers is None else _upscale_info(request, upscalers)
    if request.gfpgan_visibility > 0:
        info["GFPGAN visibility"] = round(request.gfpgan_visibility, 3)
    if request.codeformer_visibility > 0:
        info["CodeFormer visibility"] = round(request.codeformer_visibility, 3)
        info["CodeFormer weight"] = round(request.codeformer_weight, 3)
    return ", ".join(f"{key}: {quote(value)}" for key, value in info.items())


def _upscale_info(request: ExtrasRequest, upscalers: Upscalers) -> dict[str, InfoValue]:
    info: dict[str, InfoValue] = {}
    if request.resize_mode == TO_SIZE:
        wanted = f"{request.upscaling_resize_w}x{request.upscaling_resize_h}"
        info["Postprocess upscale to"] = wanted
        if request.upscaling_crop:
            info["Postprocess crop to"] = wanted
    else:
        info["Postprocess upscale by"] = request.upscaling_resize
    info["Postprocess upscaler"] = upscalers.first.name
    if upscalers.second is not None:
        info["Postprocess upscaler 2"] = upscalers.second.name
    return info


def needs_network(upscaler: Upscaler, size: tuple[int, int], target: Target) -> bool:
    """Whether an upscaler has work for the engine: a picture that is not enlarged needs none."""
    return upscaler.is_network and not _is_enough(size, target, is_first=True)


def _upscaler(name: str, field: str, networks: Networks) -> Upscaler | None:
    if not name or name == NO_UPSCALER:
        return None
    if name in FILTERS:
        return Upscaler(name, "")
    file = networks.find_upscaler(name)
    if file is None:
        known = [NO_UPSCALER, *FILTERS, *(file.name[:_SHOWN] for file in networks.upscalers())]
        shown = ", ".join(known[:_MOST_NAMES]) + (", ..." if len(known) > _MOST_NAMES else "")
        raise InvalidField(field, f"There is no upscaler {name[:_SHOWN]!r}: choose one of {shown}.")
    return Upscaler(name, file.path)


def check_network(size: tuple[int, int], target: Target, field: str, limits: Limits) -> None:
    """See that no picture is too large for a network, which most often makes it 16 times as large.

    Args:
        size: of the picture.
        target: what it is brought to.
        field: that is to blame.
        limits: of a node.

    Raises:
        InvalidField: it is, or comes to be on the way.
    """
    for done in range(MAX_ROUNDS):
        if _is_enough(size, target, is_first=done == 0):
            return
        if size[0] * size[1] > limits.max_pixels:
            message = (
                f"A network enlarges pictures of at most {limits.max_pixels:,} pixels, this one has or would "
                f"come to {size[0]:,} x {size[1]:,} on the way: send a smaller picture, or ask for less."
            )
            raise InvalidField(field, message)
        size = (size[0] * FACTOR, size[1] * FACTOR)


def _is_enough(size: tuple[int, int], target: Target, *, is_first: bool) -> bool:
    """Whether a network is not applied (again). At factor 1 it is applied once."""
    covers = size[0] >= target.size[0] and size[1] >= target.size[1]
    return covers and not (is_first and target.factor == 1)


def _cells(side: float) -> int:
    return int(side // CELL * CELL)


def _too_large(field: str, limits: Limits) -> InvalidField:
    message = f"The result would be too large: at most {limits.max_init_pixels:,} pixels are allowed."
    return InvalidField(field, message)
