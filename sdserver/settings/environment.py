"""`SDSERVER_*` variables to a layer of settings."""

import re
from collections.abc import Mapping
from pathlib import Path

from sdserver.settings.layer import Given, Layer, suggestion
from sdserver.settings.option import Option

PREFIX = "SDSERVER_"
STARTER_VARIABLES = frozenset({"SDSERVER_TORCH_INDEX"})
"""Read by start.sh, not here."""

SERVICE_LINKS = re.compile(r"SDSERVER_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_[0-9]+_.*)")
"""What Kubernetes sets in every pod beside a service named sdserver."""


def read_environment(
    environ: Mapping[str, str], options: Mapping[str, Option], base: Path
) -> tuple[Layer, list[str]]:
    """The layer, and a notice for each variable that is none of ours. Empty variables count as unset."""
    layer: Layer = {}
    notices: list[str] = []
    for name in sorted(environ):
        text = environ[name]
        if not name.startswith(PREFIX) or not text or name in STARTER_VARIABLES:
            continue
        if SERVICE_LINKS.fullmatch(name):
            continue
        key = name.removeprefix(PREFIX).lower()
        if name == "SDSERVER_PORT" and "://" in text:
            notices.append("SDSERVER_PORT was ignored: Kubernetes set it for a service named sdserver.")
        elif key in options and name == name.upper():
            layer[key] = [Given(text, name, base)]
        else:
            known = [PREFIX + option.upper() for option in options]
            notices.append(f"{name} is no setting and was ignored{suggestion(name, known) or '.'}")
    return layer, notices
