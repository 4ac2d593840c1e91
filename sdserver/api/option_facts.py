"""The options as a page of settings needs them: what each may be, what it is, and what it does."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from sdserver.api.option_effects import ABOUT
from sdserver.api.option_rules import CHOICES, COLORS, RANGES, RESTRICTED, OptionValue, defaults
from sdserver.api.option_sections import titles_of
from sdserver.api.options import CHECKPOINT, CHECKPOINT_HASH, Options
from sdserver.api.services import Services

Kind = Literal["switch", "whole", "number", "text", "choice", "colour", "list"]
Lister = Callable[[Services], list[str]]

NONE: Final = "None"
SUGGESTED: Final[Mapping[str, Lister]] = {
    CHECKPOINT: lambda services: [checkpoint.title for checkpoint in services.catalog.all()],
    "sd_vae": lambda services: ["Automatic", NONE, *(file.name for file in services.networks.vaes())],
    "sd_lora": lambda services: [NONE, *(file.name for file in services.networks.loras())],
    "sd_hypernetwork": lambda services: [NONE, *(file.name for file in services.networks.hypernetworks())],
    "upscaler_for_img2img": lambda services: [
        NONE, "Lanczos", "Nearest", *(file.name for file in services.networks.upscalers()),
    ],
    "face_restoration_model": lambda _: ["CodeFormer", "GFPGAN"],
    "show_progress_type": lambda _: ["Full", "Approx NN", "Approx cheap", "TAESD"],
    "live_previews_image_format": lambda _: list(CHOICES["samples_format"]),
    "lora_preferred_name": lambda _: ["Alias from file", "Filename"],
    "infotext_styles": lambda _: ["Ignore", "Apply", "Discard", "Apply if any"],
}  # fmt: skip
"""Values of options that may hold any text, but of which only these do something."""


def facts_of(services: Services) -> list[dict[str, Any]]:
    """Every option, in AUTOMATIC1111's order."""
    known = defaults()
    titles = titles_of(known)
    values = services.options.snapshot()
    return [
        _fact(services, key, default, values[key]) | {"section": titles[key]}
        for key, default in known.items()
    ]


def _fact(services: Services, key: str, default: OptionValue, value: OptionValue) -> dict[str, Any]:
    choices = list(CHOICES.get(key, ())) or (SUGGESTED[key](services) if key in SUGGESTED else None)
    low_high = RANGES.get(key)
    return {
        "key": key,
        "section": "",
        "kind": "choice" if choices is not None else _kind(key, default),
        "value": value,
        "default": default,
        "choices": choices,
        "range": list(low_high) if low_high else None,
        "acts": key in ABOUT,
        "about": ABOUT.get(key, ""),
        "read_only": _is_read_only(services.options, key),
    }


def _kind(key: str, default: OptionValue) -> Kind:
    if key in COLORS:
        return "colour"
    match default:
        case bool():
            return "switch"
        case int():
            return "whole"
        case float():
            return "number"
        case list():
            return "list"
        case _:
            return "text"


def _is_read_only(options: Options, key: str) -> bool:
    return key in RESTRICTED or key == CHECKPOINT_HASH or options.is_frozen(key)
