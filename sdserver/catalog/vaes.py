"""Which VAE belongs to a checkpoint: A1111's preferences beside the models."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson

from sdserver.catalog.network_file import NetworkFile
from sdserver.catalog.scan import natural_key

log = logging.getLogger(__name__)

AUTOMATIC: Final = frozenset({"Automatic", "auto", ""})
NONE: Final = "None"
MAX_SIDECAR_BYTES = 2**20


def by_name(files: Iterable[NetworkFile]) -> dict[str, NetworkFile]:
    """VAEs in natural order of their names; of two of one name the later counts."""
    named = {file.name: file for file in files}
    return dict(sorted(named.items(), key=lambda item: natural_key(item[0])))


def near_checkpoint(checkpoint: str, files: Iterable[NetworkFile]) -> NetworkFile | None:
    """The first VAE whose file name begins with the checkpoint's, its ending left off."""
    stem = Path(checkpoint).name.rsplit(".", 1)[0]
    return next((file for file in files if file.name.startswith(stem)), None)


def sidecar_choice(checkpoint: Path) -> str:
    """The VAE named in the JSON file beside the checkpoint; empty for none and for "Automatic".

    A file that cannot be used counts as not there, with a warning.
    """
    sidecar = checkpoint.with_suffix(".json")
    try:
        if not sidecar.is_file():
            return ""
        if sidecar.stat().st_size > MAX_SIDECAR_BYTES:
            raise ValueError(f"it is longer than {MAX_SIDECAR_BYTES} bytes")
        content = orjson.loads(sidecar.read_bytes())
    except (OSError, ValueError) as error:
        log.warning("the preferences in %s are left out: %s", sidecar, error)
        return ""
    chosen = content.get("vae") if isinstance(content, dict) else None
    return chosen if isinstance(chosen, str) and chosen not in AUTOMATIC else ""
