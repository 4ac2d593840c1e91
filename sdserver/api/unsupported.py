"""What AUTOMATIC1111 would act on and this version cannot: refused clearly, never ignored."""

from collections.abc import Mapping
from typing import Final

from sdserver.api.schemas import Txt2ImgRequest
from sdserver.errors import InvalidField
from sdserver.prompt.networks import NetworkTag

NETWORK_KINDS: Final = frozenset({"lora", "lyco", "hypernet"})
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


def check_request(request: Txt2ImgRequest) -> None:
    """See that nothing is asked which would silently be left out.

    Raises:
        InvalidField: names the field and what to do.
    """
    _check_scripts(request.script_name, request.alwayson_scripts)
    asked: Mapping[str, bool] = {
        "enable_hr": request.enable_hr,
        "tiling": bool(request.tiling),
        "restore_faces": bool(request.restore_faces),
        "refiner_checkpoint": request.refiner_checkpoint not in (None, "", "None"),
        "s_min_uncond": bool(request.s_min_uncond),
        "infotext": bool(request.infotext),
    }
    for field, is_asked in asked.items():
        if is_asked:
            message = f"The field {field!r} is not supported by this version: leave it out."
            raise InvalidField(field, message)


def check_networks(tags: tuple[NetworkTag, ...]) -> None:
    """See that the prompt names no extra network. Unknown kinds of tags do nothing, as in AUTOMATIC1111.

    Raises:
        InvalidField: it names one.
    """
    for tag in tags:
        if tag.kind in NETWORK_KINDS:
            message = (
                f"Tags such as <{tag.kind}:{tag.items[0][:MAX_SHOWN]}> are not supported by this version: "
                "remove it from the prompt, or set disable_extra_networks."
            )
            raise InvalidField("prompt", message)


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
