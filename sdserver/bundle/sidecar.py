"""A1111's yaml beside a checkpoint: what the tensors cannot tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from sdserver.errors import UnreadableCheckpoint
from sdserver.jobs.model import PredictionType

MAX_BYTES = 1 << 20

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the file says; None where it is silent."""

    prediction: PredictionType | None = None
    num_heads: int | None = None
    head_channels: int | None = None
    latent_scale: float | None = None
    beta_start: float | None = None
    beta_end: float | None = None


def read_sidecar(checkpoint: Path) -> Sidecar | None:
    """The yaml of the checkpoint's stem; None if there is none.

    Raises:
        UnreadableCheckpoint: it is too long or no yaml, or its values are of the wrong kind.
    """
    path = checkpoint.with_suffix(".yaml")
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableCheckpoint(
                f"{path} is longer than {MAX_BYTES} bytes: it is no model configuration."
            )
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{path} is not valid yaml: repair or remove it ({error}).") from error
    params = _section(content, "model", "params")
    network = _section(params, "unet_config", "params") or _section(params, "network_config", "params")
    return Sidecar(
        prediction=_prediction(params),
        num_heads=_number(network, "num_heads", path, int),
        head_channels=_number(network, "num_head_channels", path, int),
        latent_scale=_number(params, "scale_factor", path, float),
        beta_start=_number(params, "linear_start", path, float),
        beta_end=_number(params, "linear_end", path, float),
    )


def _section(content: object, *names: str) -> Mapping[str, object]:
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _prediction(params: Mapping[str, object]) -> PredictionType:
    """LDM says `parameterization: v`; sgm (SDXL) names the denoiser's scaling class."""
    scaling = _section(params, "denoiser_config", "params", "scaling_config").get("target")
    is_v = params.get("parameterization") == "v" or (
        isinstance(scaling, str) and scaling.endswith(".VScaling")
    )
    return "v" if is_v else "epsilon"


def _number(section: Mapping[str, object], name: str, path: Path, kind: type[Number]) -> Number | None:
    """A positive number; LDM writes -1 for "not used"."""
    value = section.get(name)
    if value is None or value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1 << 16:
        raise UnreadableCheckpoint(f"{path}: {name} must be a positive number, not {value!r}.")
    return kind(value)
