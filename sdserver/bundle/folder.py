"""Load a diffusers folder: a subfolder per network, each with its own configuration.

Class names in the folder are compared with those that are served, never imported.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdserver.bundle.configuration import Json, read_json
from sdserver.bundle.device import Placement
from sdserver.bundle.parts import Parts
from sdserver.bundle.schedule import TIMESTEPS, scaled_linear, zero_terminal_snr
from sdserver.bundle.spec import Spec, TextKind
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.model import Family

_CLASSES: Final = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
_PREDICTIONS: Final = {"epsilon": "epsilon", "v_prediction": "v"}


def prepare_folder(path: Path) -> Callable[[Placement], Parts]:
    """Read the folder's configuration; returns what reads its data.

    Raises:
        UnreadableCheckpoint: a configuration is missing or damaged.
        UnsupportedCheckpoint: the folder holds networks of other kinds.
    """
    places = _places(path)
    spec = _spec(path, places)

    def read(placement: Placement) -> Parts:
        try:
            unet = _diffusers_part(UNet2DConditionModel, path / "unet", placement)
            vae = _diffusers_part(AutoencoderKL, path / "vae", placement)
            text = tuple(_text_part(path / name, placement) for name in places if name.startswith("text"))
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise UnreadableCheckpoint(f"{path.name} cannot be read: {str(error)[:200]}") from error
        _take_whole_vector(unet)
        return Parts(spec, unet, vae, text)

    return read


def _places(path: Path) -> tuple[str, ...]:
    """The folder's networks, checked to be of served kinds."""
    index = read_json(path / "model_index.json")
    found: list[str] = []
    for name, classes in _CLASSES.items():
        entry = index.get(name)
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if kind is None:
            continue
        if kind not in classes:
            raise UnsupportedCheckpoint(
                f"{path.name}: its {name} is a {kind}: only SD 1, SD 2 and SDXL are served."
            )
        found.append(name)
    if not {"unet", "vae"} < set(found):
        raise UnsupportedCheckpoint(
            f"{path.name}: it lacks a UNet, a VAE or a text encoder of a served kind."
        )
    return tuple(found)


def _spec(path: Path, places: tuple[str, ...]) -> Spec:
    unet = read_json(path / "unet" / "config.json")
    vae = read_json(path / "vae" / "config.json")
    noise = read_json(path / "scheduler" / "scheduler_config.json")
    family, kinds = _family(path, places)
    in_channels, out_channels = _integer(unet, "in_channels", 4), _integer(unet, "out_channels", 4)
    vector = unet.get("projection_class_embeddings_input_dim")
    known = _PREDICTIONS.get(str(noise.get("prediction_type", "epsilon")))
    if in_channels not in (4, 8, 9) or out_channels != _integer(vae, "latent_channels", 4) or known is None:
        raise UnsupportedCheckpoint(f"{path.name}: its UNet takes or predicts what is not served.")
    zero_snr = noise.get("rescale_betas_zero_snr") is True
    alphas = _alphas(path, noise)
    return Spec(
        family=family,
        is_refiner=family == "sdxl" and len(kinds) == 1,
        is_inpainting=in_channels == 9,
        is_edit=in_channels == 8,
        prediction="v" if known == "v" else "epsilon",
        zero_snr=zero_snr,
        alphas=zero_terminal_snr(alphas) if zero_snr else alphas,
        latent_scale=_real(vae, "scaling_factor", 0.18215),
        latent_channels=out_channels,
        in_channels=in_channels,
        context_dim=_integer(unet, "cross_attention_dim", 0),
        vector_dim=vector if isinstance(vector, int) else None,
        text=kinds,
        last_layer_cut=family == "sd2",
    )


def _family(path: Path, places: tuple[str, ...]) -> tuple[Family, tuple[TextKind, ...]]:
    if "text_encoder_2" in places:
        return "sdxl", ("clip", "open_clip") if "text_encoder" in places else ("open_clip",)
    is_clip = read_json(path / "text_encoder" / "config.json").get("hidden_act") == "quick_gelu"
    return ("sd1", ("clip",)) if is_clip else ("sd2", ("open_clip",))


def _alphas(path: Path, noise: Json) -> tuple[float, ...]:
    plain = noise.get("beta_schedule", "scaled_linear") == "scaled_linear" and not noise.get("trained_betas")
    if not plain or _integer(noise, "num_train_timesteps", TIMESTEPS) != TIMESTEPS:
        raise UnsupportedCheckpoint(f"{path.name}: its noise schedule is not that of Stable Diffusion.")
    return scaled_linear(_real(noise, "beta_start", 0.00085), _real(noise, "beta_end", 0.012))


def _diffusers_part(kind: type[Any], path: Path, placement: Placement) -> nn.Module:
    part: nn.Module = kind.from_pretrained(
        str(path),
        torch_dtype=placement.dtype,
        variant=_variant(path),
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
    part.to(placement.device)
    for parameter in part.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    part.eval().requires_grad_(False)
    return part


def _text_part(path: Path, placement: Placement) -> nn.Module:
    kind = CLIPTextModelWithProjection if path.name == "text_encoder_2" else CLIPTextModel
    part: nn.Module = kind.from_pretrained(
        str(path),
        dtype=placement.dtype,
        variant=_variant(path),
        use_safetensors=True,
        local_files_only=True,
    )
    part.to(placement.device)
    part.eval().requires_grad_(False)
    return part


def _variant(path: Path) -> str | None:
    """fp16 files are taken where there are no plain ones."""
    files = [file.name for file in path.glob("*.safetensors")]
    return "fp16" if files and all(".fp16." in name for name in files) else None


def _take_whole_vector(unet: Any) -> None:
    """Let SDXL's vector enter as a class embedding, as in a UNet of `parts.empty_unet`."""
    if unet.config.addition_embed_type == "text_time":
        unet.class_embedding, unet.add_embedding = unet.add_embedding, None
        unet.register_to_config(class_embed_type="projection", addition_embed_type=None)


def _integer(content: Json, name: str, default: int) -> int:
    value = content.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnreadableCheckpoint(
            f"{name} in the folder's configuration must be a whole number, not {value!r}."
        )
    return value


def _real(content: Json, name: str, default: float) -> float:
    value = content.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 100:
        raise UnreadableCheckpoint(
            f"{name} in the folder's configuration must be a positive number, not {value!r}."
        )
    return float(value)
