"""What AUTOMATIC1111 would act on and this version cannot: refused clearly, never ignored."""

from collections.abc import Mapping
from typing import Final

from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.errors import InvalidField

SELECTABLE_SCRIPTS: Final = frozenset(
    {
        "custom code",
        "img2img alternative test",
        "loopback",
        "outpainting mk2",
        "poor man's outpainting",
        "prompt matrix",
        "prompts from file or textbox",
        "sd upscale",
        "x/y/z plot",
    }
)
ALWAYS_ON_SCRIPTS: Final = frozenset({"extra options", "hypertile", "soft inpainting", "comments"})
NO_OP_SCRIPTS: Final = frozenset({"refiner", "sampler", "seed"})
"""Scripts of AUTOMATIC1111's page that do nothing when they are named in the API."""

MAX_SHOWN = 100


def check_request(request: Request) -> None:
    """See that nothing is asked which would silently be left out.

    Raises:
        InvalidField: names the field and what to do.
    """
    _check_scripts(request.script_name, request.alwayson_scripts)
    if request.restore_faces:
        raise _unsupported("restore_faces")
    # AUTOMATIC1111 takes the next two as text, never decodes them, and fails where it would use them.
    if isinstance(request, Img2ImgRequest):
        if request.mask and request.latent_mask:
            raise _unsupported("latent_mask")
    elif request.enable_hr and request.firstpass_image:
        raise _unsupported("firstpass_image")


def _unsupported(field: str) -> InvalidField:
    return InvalidField(field, f"The field {field!r} is not supported by this version: leave it out.")


def _check_scripts(name: str | None, always_on: Mapping[str, object]) -> None:
    if name:
        if name.lower() not in SELECTABLE_SCRIPTS:
            raise InvalidField("script_name", f"Script '{name[:MAX_SHOWN]}' not found")
        raise InvalidField("script_name", f"The script '{name}' is not supported by this version.")
    for key, settings in always_on.items():
        script = key.lower()
        if script in SELECTABLE_SCRIPTS:
            message = "Cannot have a selectable script in the always on scripts params"
            raise InvalidField("alwayson_scripts", message)
        if script not in ALWAYS_ON_SCRIPTS | NO_OP_SCRIPTS:
            raise InvalidField("alwayson_scripts", f"Script '{key[:MAX_SHOWN]}' not found")
        has_arguments = isinstance(settings, dict) and bool(settings.get("args"))
        if script in ALWAYS_ON_SCRIPTS and has_arguments:
            message = f"The script '{key}' is not supported by this version: leave its args out."
            raise InvalidField("alwayson_scripts", message)
