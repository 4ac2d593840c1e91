"""What clients are told of the scripts: A1111's `scripts` and `script-info`."""

from typing import Any, Final

from sdserver.api.scripts.script import Argument, Script, Tab
from sdserver.api.scripts.table import SCRIPTS
from sdserver.api.translate.plan import Sources

TABS: Final[tuple[Tab, ...]] = ("txt2img", "img2img")
_UNTOLD: Final = "Hypertile"
"""A1111 lists it in its own spelling, and its arguments nowhere."""


def script_names() -> dict[str, list[str]]:
    """Every script's name, for each tab."""
    return {tab: [_name(script) for script in _scripts(tab)] for tab in TABS}


def script_infos(sources: Sources) -> list[dict[str, Any]]:
    """Every script's arguments, those of txt2img first.

    Args:
        sources: some choices are made of what is installed.
    """
    return [
        {
            "name": _name(script),
            "is_alwayson": script.is_always_on,
            "is_img2img": tab == "img2img",
            "args": [_argument(argument, sources) for argument in script.arguments],
        }
        for tab in TABS
        for script in _scripts(tab)
        if script.title != _UNTOLD
    ]


def _scripts(tab: Tab) -> list[Script]:
    return [script for script in SCRIPTS if tab in script.tabs]


def _name(script: Script) -> str:
    return script.title if script.title == _UNTOLD else script.title.lower()


def _argument(argument: Argument, sources: Sources) -> dict[str, Any]:
    choices = argument.choices(sources) if callable(argument.choices) else argument.choices
    return {
        "label": argument.label,
        "value": argument.value,
        "minimum": argument.minimum,
        "maximum": argument.maximum,
        "step": argument.step,
        "choices": None if choices is None else list(choices),
    }
