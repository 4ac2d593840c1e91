"""Every script by its name."""

from collections.abc import Sequence
from typing import Any, Final

from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.scripts import (
    alternative_test,
    loopback,
    outpainting_mk2,
    poor_mans_outpainting,
    prompt_matrix,
    prompts_from_file,
    sd_upscale,
    xyz,
)
from sdserver.api.scripts.always_rows import ALWAYS_ON
from sdserver.api.scripts.script import Script, Tab
from sdserver.errors import InvalidField

MAX_SHOWN: Final = 100
SCRIPTS: Final[tuple[Script, ...]] = (
    alternative_test.SCRIPT,
    loopback.SCRIPT,
    outpainting_mk2.SCRIPT,
    poor_mans_outpainting.SCRIPT,
    prompt_matrix.SCRIPT,
    prompts_from_file.SCRIPT,
    sd_upscale.SCRIPT,
    xyz.TXT2IMG,
    xyz.IMG2IMG,
    *ALWAYS_ON,
)
"""In the order of AUTOMATIC1111's lists."""


def tab_of(request: Request) -> Tab:
    """Which of the two kinds a request is."""
    return "img2img" if isinstance(request, Img2ImgRequest) else "txt2img"


def script_of(request: Request) -> Script:
    """The script that a request names; it counts in any case.

    Raises:
        InvalidField: there is none of that name for this kind of request.
    """
    name, tab = request.script_name or "", tab_of(request)
    for script in SCRIPTS:
        if script.title.lower() == name.lower() and tab in script.tabs and not script.is_always_on:
            return script
    raise InvalidField("script_name", f"Script '{name[:MAX_SHOWN]}' not found")


def arguments_of(script: Script, given: Sequence[Any]) -> list[Any]:
    """The arguments that a script is begun with: defaults where the client sent too few.

    Raises:
        InvalidField: there are too many.
    """
    most = len(script.arguments)
    if len(given) > most:
        message = f"The script '{script.title}' takes {most} arguments, not {len(given)}."
        raise InvalidField("script_args", message)
    return [*given, *(argument.value for argument in script.arguments[len(given) :])]
