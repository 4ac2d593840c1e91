"""Lines of prompts, some with settings: `--prompt "a cat" --steps 20`."""

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdserver.api.options import CHECKPOINT
from sdserver.api.scripts.checks import MAX_SHOWN, refused
from sdserver.api.scripts.ranges import MAX_DIGITS

_TEXTS: Final = frozenset({"prompt", "negative_prompt"})
_IDLE: Final = frozenset({"do_not_save_grid", "outpath_grids", "prompt_for_display", "sampler_index"})
"""AUTOMATIC1111 reads them, and they change nothing there."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a line sets.

    Attributes:
        fields: of the request.
        options: that hold for it.
        saves: None for as the request says.
        folder: where its images are saved, None for where others are.
    """

    fields: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    saves: bool | None = None
    folder: str | None = None


def read_line(text: str, *, guesses: bool) -> Line:
    """Read a line. One that does not begin with `--` is a prompt as it stands.

    Args:
        text: the line, without white space around it.
        guesses: take a line that is no list of settings as a prompt, as AUTOMATIC1111 does.

    Raises:
        InvalidField: a setting is not known, or its value is of another kind.
    """
    if not text.startswith("--"):
        return Line({"prompt": text})
    try:
        return _settings(shlex.split(text))
    except ValueError as error:
        if guesses:
            return Line({"prompt": text})
        message = f"The line {text[:MAX_SHOWN]!r} cannot be read: {error}"
        raise refused(f'{message}. Write such as --prompt "a cat" --steps 20.') from None


def _settings(words: list[str]) -> Line:
    """Raises ValueError, which says what is wrong."""
    fields: dict[str, Any] = {}
    found: dict[str, Any] = {}
    place = 0
    while place < len(words):
        tag = words[place].removeprefix("--")
        if not words[place].startswith("--"):
            raise ValueError(f'{words[place][:MAX_SHOWN]!r} must start with "--"')
        if place + 1 == len(words):
            raise ValueError(f"the value of --{tag[:MAX_SHOWN]} is missing")
        end = place + 2
        if tag in _TEXTS:
            while end < len(words) and not words[end].startswith("--"):
                end += 1
            fields[tag] = " ".join(words[place + 1 : end])
        elif tag in _FIELDS:
            fields[tag] = _FIELDS[tag](words[place + 1])
        elif tag in _OTHERS:
            found[tag] = _OTHERS[tag](words[place + 1])
        elif tag not in _IDLE:
            raise ValueError(f"there is no setting --{tag[:MAX_SHOWN]}")
        place = end
    saves = None if "do_not_save_samples" not in found else not found["do_not_save_samples"]
    options = {CHECKPOINT: found["sd_model"]} if "sd_model" in found else {}
    return Line(fields, options, saves, found.get("outpath_samples"))


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS + 1:
        raise ValueError(f"{text[:MAX_SHOWN]!r} is too long for a whole number")
    return int(text)


def _number(text: str) -> float:
    value = float(text) if len(text) <= MAX_SHOWN else math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text[:MAX_SHOWN]!r} is no number")
    return value


def _flag(text: str) -> bool:
    return text == "true"


_FIELDS: Final[Mapping[str, Callable[[str], Any]]] = {
    "styles": lambda text: text.split(","),
    "seed": _whole,
    "subseed_strength": _number,
    "subseed": _whole,
    "seed_resize_from_h": _whole,
    "seed_resize_from_w": _whole,
    "sampler_name": str,
    "batch_size": _whole,
    "n_iter": _whole,
    "steps": _whole,
    "cfg_scale": _number,
    "width": _whole,
    "height": _whole,
    "restore_faces": _flag,
    "tiling": _flag,
}
_OTHERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "sd_model": str,
    "outpath_samples": str,
    "do_not_save_samples": _flag,
}
