"""Scripts that run with every request: what `alwayson_scripts` says to them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final

from pydantic_core import PydanticCustomError

from sdserver.api import coerce
from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.errors import InvalidField
from sdserver.images.infotext import split
from sdserver.jobs.job import SoftInpainting

FIELD: Final = "alwayson_scripts"
SOFT_INPAINTING: Final = "soft inpainting"
SELECTABLE: Final = frozenset({"custom code", "prompt matrix", "prompts from file or textbox", "x/y/z plot"})
SELECTABLE_FOR_PICTURES: Final = frozenset(
    {"img2img alternative test", "loopback", "outpainting mk2", "poor man's outpainting", "sd upscale"}
)
IDLE: Final = frozenset({"comments", "extra options", "hypertile", "refiner", "sampler", "seed"})
"""They take what they do from fields and options: their arguments do nothing in AUTOMATIC1111's API."""

LIMITS: Final[tuple[tuple[str, float, float], ...]] = (
    ("Schedule bias", 0, 8),
    ("Preservation strength", 0, 8),
    ("Transition contrast boost", 1, 32),
    ("Mask influence", 0, 1),
    ("Difference threshold", 0, 8),
    ("Difference contrast", 0, 8),
)
"""Soft inpainting's numbers and the ends of their sliders, in the order of its arguments."""

ENABLED: Final = "Soft inpainting enabled"
MAX_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """What the scripts are to do.

    Attributes:
        soft_inpainting: None where it is off.
    """

    soft_inpainting: SoftInpainting | None = None


def always_on(request: Request) -> AlwaysOn:
    """Read a request's `alwayson_scripts`. Names count in any case; as in AUTOMATIC1111, arguments that are
    left out are what the field `infotext` says of them or else their defaults, and those that are too many
    are ignored.

    Raises:
        InvalidField: a script is not known or is none of this kind, or an argument cannot be used.
    """
    is_img2img = isinstance(request, Img2ImgRequest)
    selectable = SELECTABLE | SELECTABLE_FOR_PICTURES if is_img2img else SELECTABLE
    known = IDLE | {SOFT_INPAINTING} if is_img2img else IDLE
    soft: Sequence[object] = ()
    for title, settings in request.alwayson_scripts.items():
        name = title.lower()
        if name in selectable:
            message = "Cannot have a selectable script in the always on scripts params"
            raise InvalidField(FIELD, message)
        if name not in known:
            raise InvalidField(FIELD, f"Script '{title[:MAX_SHOWN]}' not found")
        if name == SOFT_INPAINTING:
            soft = _arguments(title, settings)
    return AlwaysOn(_soft_inpainting(soft, request.infotext)) if is_img2img else AlwaysOn()


def _arguments(title: str, settings: object) -> Sequence[object]:
    """The script's list of arguments, empty where there is none."""
    if not isinstance(settings, Mapping) or "args" not in settings:
        return ()
    arguments = settings["args"]
    if not isinstance(arguments, list):
        message = f"The 'args' of the script '{title[:MAX_SHOWN]}' must be a list."
        raise InvalidField(FIELD, message)
    return arguments


def _soft_inpainting(sent: Sequence[object], infotext: str | None) -> SoftInpainting | None:
    arguments = _told_arguments(infotext)
    arguments[: len(sent)] = sent[: len(arguments)]
    try:
        is_on = coerce.to_bool(arguments[0])
    except PydanticCustomError:
        message = "The first argument of 'Soft inpainting' must be true or false."
        raise InvalidField(FIELD, message) from None
    if not is_on:
        return None
    return SoftInpainting(
        *(_number(value, *limit) for value, limit in zip(arguments[1:], LIMITS, strict=True))
    )


def _told_arguments(infotext: str | None) -> list[object]:
    """Soft inpainting's arguments as far as a text tells of them, else their defaults."""
    defaults: list[object] = [False, *astuple(SoftInpainting())]
    if not infotext:
        return defaults
    _, _, told = split(infotext)
    keys = (ENABLED, *(key_of(label) for label, _, _ in LIMITS))
    return [told.get(key, default) for key, default in zip(keys, defaults, strict=True)]


def key_of(label: str) -> str:
    """An infotext's key for a number of soft inpainting's."""
    return f"Soft inpainting {label.lower()}"


def _number(value: object, label: str, low: float, high: float) -> float:
    """A whole number stays one: infotexts show it as it was sent."""
    try:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        number = coerce.to_int(value) if is_whole else coerce.to_float(value)
    except PydanticCustomError:
        number = math.nan
    if not low <= number <= high:
        message = f"Soft inpainting's '{label}' must be a number from {low:g} to {high:g}."
        raise InvalidField(FIELD, message)
    return number
