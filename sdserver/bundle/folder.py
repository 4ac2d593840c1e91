"""Load a diffusers folder: a subfolder per network, each with its own configuration.

Class names in the folder are compared with those that are served, never imported.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdserver.bundle.configuration import Json, read_json
from sdserver.bundle.convert import Sources
from sdserver.bundle.device import Placement
from sdserver.bundle.fill import check_tensors, number_positions, read_state
from sdserver.bundle.folder_files import folder_sources, open_several, weight_files
from sdserver.bundle.parts import Parts, Reader, numbers_of
from sdserver.bundle.schedule import TIMESTEPS, scaled_linear, zero_terminal_snr
from sdserver.bundle.spec import Spec, TextKind
from sdserver.bundle.weights import Weights
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.model import Family

_CLASSES: Final = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
_PREDICTIONS: Final = {"epsilon": "epsilon", "v_prediction": "v"}


@contextmanager
def prepare_folder(path: Path) -> Iterator[Reader]:
    """Check the folder's configuration and the shapes of its tensors; then yield what reads its data.

    Raises:
        UnreadableCheckpoint: a configuration or file is missing or damaged.
        UnsupportedCheckpoint: the folder holds networks of other kinds.
        RuntimeError: while reading: the device's memory does not suffice.
    """
    places = _places(path)
    spec = _spec(path, places)
    with ExitStack() as stack:
        parts = {name: _part(path / name, stack) for name in places}

        def read(placement: Placement) -> Parts:
            for part in parts.values():
                part.fill(placement)
            _take_whole_vector(parts["unet"].network)
            text = tuple(part.network for name, part in parts.items() if name.startswith("text"))
            for encoder in text:
                number_positions(encoder, placement)
            return Parts(spec, parts["unet"].network, parts["vae"].network, text)

        yield Reader(spec.family, numbers_of(part.network for part in parts.values()), read)


@dataclass(frozen=True, slots=True)
class _Part:
    """An empty network and the open files of its tensors."""

    path: Path
    network: nn.Module
    weights: Weights
    sources: Sources

    def fill(self, placement: Placement) -> None:
        try:
            read_state(self.network, self.weights, self.sources, placement)
        except (SafetensorError, OSError) as error:
            raise UnreadableCheckpoint(f"{self.path} cannot be read, download it again: {error}") from error


def _part(path: Path, stack: ExitStack) -> _Part:
    config = dict(read_json(path / "config.json"))
    try:
        network = _empty(path.name, config)
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, ArithmeticError) as error:
        raise UnsupportedCheckpoint(f"{path}: its dimensions make no network ({error}).") from error
    weights = open_several(weight_files(path), stack)
    sources = folder_sources(network, frozenset(weights.shapes))
    used = {source.name for source in sources.values()}
    try:
        check_tensors(network, sources, {name: weights.shapes[name] for name in used}, "")
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path}: {error}") from error
    return _Part(path, network, weights, sources)


def _empty(name: str, config: dict[str, object]) -> nn.Module:
    """A network without data, with the dimensions that its configuration says."""
    kind: Any = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}.get(name)
    with torch.device("meta"):
        if kind is not None:
            network: nn.Module = kind.from_config(config)
            return network
        kind = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
        text: nn.Module = kind(CLIPTextConfig.from_dict(config))
    return text


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
