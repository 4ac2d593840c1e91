"""Reading an infotext as AUTOMATIC1111 1.10 does: missing values filled in, old versions understood."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sdserver.images.infotext import InfoValue, split

ReadValue = InfoValue | list[str]
StyleRule = Literal["Apply if any", "Apply", "Ignore", "Discard"]

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

_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:-(\d{1,9}))?")
_OLD_HIRES_SIDE = 512
_MOST_DIGITS = 9
_HIRES_PROMPT, _HIRES_NEGATIVE = "Hires prompt", "Hires negative prompt"
_HIRES_KEYS = ("Hires upscale", "Hires upscaler", "Hires resize-1", "Hires resize")
_HIRES_PROMPTS_WITH_STYLES = (1, 8, 0, 139)
"""Later versions write the hires prompts with the styles in them."""

Version = tuple[int, int, int, int]


class StyleTemplate(Protocol):
    """A named pair of templates; where `{prompt}` stands in one, the prompt stood."""

    @property
    def name(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def negative_prompt(self) -> str: ...


def _has_brackets(text: str) -> bool:
    return re.search(r"(?<!\\)[(\[]", text) is not None


@dataclass(frozen=True, slots=True)
class Reading:
    """How infotexts are read.

    Attributes:
        styles: templates that are looked for in the prompts.
        style_rule: what becomes of those found (the option `infotext_styles`): "Ignore" leaves them
            in the prompts, "Discard" takes them out and says nothing.
        skipped: keys that are left out (the option `infotext_skip_pasting`).
        understands_old: whether texts of older versions switch on what their pictures were made with
            (the option `auto_backcompat`).
        uses_emphasis: whether a prompt weighs its words.
    """

    styles: Sequence[StyleTemplate] = ()
    style_rule: StyleRule = "Apply if any"
    skipped: frozenset[str] = frozenset()
    understands_old: bool = True
    uses_emphasis: Callable[[str], bool] = _has_brackets


def read(text: str, reading: Reading = Reading()) -> dict[str, ReadValue]:
    """An infotext as the dictionary that AUTOMATIC1111's `png-info` answers with.

    Values found in the text are strings; those filled in have their own type, `Styles array` is a list.
    """
    prompt, negative, found = split(text)
    values: dict[str, ReadValue] = dict(found)
    if reading.style_rule != "Ignore":
        prompt, negative = _take_styles(prompt, negative, values, reading)
    values |= {"Prompt": prompt, "Negative prompt": negative}
    if values.get("Hypernet") is not None:
        strength = values.get("Hypernet strength", "1.0")
        values["Prompt"] = f"{prompt}<hypernet:{values['Hypernet']}:{strength}>"
    _understand_old_hires(values)
    if "Emphasis" not in values and (reading.uses_emphasis(prompt) or reading.uses_emphasis(negative)):
        values["Emphasis"] = "Original"
    for key, default in DEFAULTS.items():
        values.setdefault(key, default)
    if reading.understands_old:
        _understand_old_versions(values)
    return {key: value for key, value in values.items() if key not in reading.skipped}


def has_hires(text: str) -> bool:
    """Whether an infotext tells of a hires pass."""
    values = split(text)[2]
    is_old = values.get("First pass size-1") is not None
    return "Denoising strength" in values and (is_old or any(key in values for key in _HIRES_KEYS))


def take_styles(prompt: str, negative: str, styles: Iterable[StyleTemplate]) -> tuple[list[str], str, str]:
    """The styles whose templates both prompts fit, in the order they were applied, and the prompts
    without them.
    """
    left = list(styles)
    found: list[str] = []
    is_any = True
    while is_any:
        is_any = False
        for style in left:
            without = _without(style, prompt, negative)
            if without is not None:
                prompt, negative = without
                left.remove(style)
                found.append(style.name)
                is_any = True
                break
    return found[::-1], prompt, negative


def _take_styles(
    prompt: str, negative: str, values: dict[str, ReadValue], reading: Reading
) -> tuple[str, str]:
    """Take styles out of the prompts, unless those of the hires pass have others."""
    found, bare, bare_negative = take_styles(prompt, negative, reading.styles)
    version = _version_of(str(values.get("Version", "")))
    if (_HIRES_PROMPT in values or _HIRES_NEGATIVE in values) and (
        version is None or version > _HIRES_PROMPTS_WITH_STYLES
    ):
        hires, hires_negative = (
            str(values.get(key, base)) for key, base in ((_HIRES_PROMPT, prompt), (_HIRES_NEGATIVE, negative))
        )
        hires_found, hires, hires_negative = take_styles(hires, hires_negative, reading.styles)
        if hires_found != found:
            return prompt, negative
        values[_HIRES_PROMPT] = "" if hires == bare else hires
        values[_HIRES_NEGATIVE] = "" if hires_negative == bare_negative else hires_negative
    if reading.style_rule == "Apply" or (reading.style_rule == "Apply if any" and found):
        values["Styles array"] = found
    return bare, bare_negative


def _without(style: StyleTemplate, prompt: str, negative: str) -> tuple[str, str] | None:
    if not style.prompt and not style.negative_prompt:
        return None
    bare = _without_template(style.prompt, prompt)
    bare_negative = _without_template(style.negative_prompt, negative)
    return None if bare is None or bare_negative is None else (bare, bare_negative)


def _without_template(template: str, prompt: str) -> str | None:
    """The prompt that the template was applied to; None if this is not its result."""
    template = template.strip()
    if "{prompt}" in template:
        before, after = template.split("{prompt}", 1)
        fits = len(prompt) >= len(before) + len(after) and "{prompt}" not in after
        if fits and prompt.startswith(before) and prompt.endswith(after):
            return prompt[len(before) : len(prompt) - len(after)]
        return None
    if not prompt.endswith(template):
        return None
    return prompt.removesuffix(template).removesuffix(", ")


def _understand_old_hires(values: dict[str, ReadValue]) -> None:
    """Before 1.0 `Size` was the target and `First pass size` what is `Size` now; 0x0 meant automatic."""
    if "First pass size-1" not in values or "First pass size-2" not in values:
        return
    first = _side(values["First pass size-1"]), _side(values["First pass size-2"])
    width, height = (_side(values.get(f"Size-{side}", _OLD_HIRES_SIDE)) for side in (1, 2))
    if first[0] is None or first[1] is None or width is None or height is None:
        return
    if first == (0, 0) and width > 0 and height > 0:
        scale = math.sqrt(_OLD_HIRES_SIDE**2 / (width * height))
        first = math.ceil(scale * width / 64) * 64, math.ceil(scale * height / 64) * 64
    values["Size-1"], values["Size-2"] = first
    values["Hires resize-1"], values["Hires resize-2"] = width, height


def _side(value: ReadValue) -> int | None:
    """A length in pixels; None for what is none."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _understand_old_versions(values: dict[str, ReadValue]) -> None:
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
