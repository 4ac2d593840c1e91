"""Reading an infotext as AUTOMATIC1111 1.10 does: missing values filled in, old versions understood."""

import math
import re
from collections.abc import Mapping

from sdserver.images.infotext import InfoValue, split

DEFAULTS: Mapping[str, InfoValue] = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "RNG": "GPU",
    "Schedule type": "Automatic",
    "Schedule max sigma": 0,
    "Schedule min sigma": 0,
    "Schedule rho": 0,
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
    "Refiner switch by sampling steps": False,
}

_BRACKET = re.compile(r"(?<!\\)[(\[]")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-(\d+))?")
_OLD_HIRES_SIDE = 512

Version = tuple[int, int, int, int]


def read(text: str) -> dict[str, InfoValue]:
    """An infotext as the dictionary that AUTOMATIC1111's `png-info` answers with.

    Values found in the text are strings; those filled in have their own type. What depends on the
    list of styles (`Styles array`) is not part of it.
    """
    prompt, negative, found = split(text)
    values: dict[str, InfoValue] = {**found, "Prompt": prompt, "Negative prompt": negative}
    _understand_old_hires(values)
    if "Emphasis" not in values and (_BRACKET.search(prompt) or _BRACKET.search(negative)):
        values["Emphasis"] = "Original"
    for key, default in DEFAULTS.items():
        values.setdefault(key, default)
    _understand_old_versions(values)
    return values


def _understand_old_hires(values: dict[str, InfoValue]) -> None:
    """Before 1.0 `Size` was the target and `First pass size` what is `Size` now; 0x0 meant automatic."""
    first_width, first_height = values.get("First pass size-1"), values.get("First pass size-2")
    if first_width is None or first_height is None:
        return
    first = int(str(first_width)), int(str(first_height))
    width, height = (int(str(values.get(f"Size-{side}", _OLD_HIRES_SIDE))) for side in (1, 2))
    if first == (0, 0) and width > 0 and height > 0:
        scale = math.sqrt(_OLD_HIRES_SIDE**2 / (width * height))
        first = math.ceil(scale * width / 64) * 64, math.ceil(scale * height / 64) * 64
    values["Size-1"], values["Size-2"] = first
    values["Hires resize-1"], values["Hires resize-2"] = width, height


def _understand_old_versions(values: dict[str, InfoValue]) -> None:
    """Switch on what pictures of older versions were made with."""
    version = _version_of(str(values.get("Version", "")))
    if version is None:
        return
    prompts = f"{values['Prompt']}{values['Negative prompt']}"
    if version < (1, 6, 0, 0):
        if "[" in prompts:
            values["Old prompt editing timelines"] = True
        if values.get("Sampler") in ("DDIM", "PLMS"):
            values["Pad conds v0"] = True
    if version < (1, 7, 0, 225):
        values["Downcast alphas_cumprod"] = True
    if version < (1, 8, 0, 0) and "Refiner" in values:
        values["Refiner switch by sampling steps"] = True


def _version_of(text: str) -> Version | None:
    match = _VERSION.match(text)
    if match is None:
        return None
    major, minor, patch, commits = (int(part or 0) for part in match.groups())
    return major, minor, patch, commits
