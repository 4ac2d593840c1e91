"""From the names and shapes of a file's tensors to what the checkpoint is. No data is read but
`alphas_cumprod`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sdserver.bundle.dims import SDXL_TEXT, UNET, VAE, read_text, read_unet, read_vae
from sdserver.bundle.schedule import TIMESTEPS, scaled_linear, zero_terminal_snr
from sdserver.bundle.sidecar import Sidecar
from sdserver.bundle.spec import Layout, Spec, TextSpec, UNetSpec
from sdserver.bundle.weights import Shapes, Weights
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.model import Family, PredictionType

LATENT_SCALES: Final[dict[Family, float]] = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
"""Factors of the families' autoencoders (their published configurations)."""

_IN_CHANNELS = {4: "plain", 8: "edit", 9: "inpainting"}

# What a file is that is not a checkpoint of ours: a piece of a tensor's name, and the words for it.
_OTHERS = (
    ("double_blocks.", "a Flux checkpoint"),
    ("joint_blocks.", "a Stable Diffusion 3 checkpoint"),
    ("clip_txt_mapper.", "a Stable Cascade checkpoint"),
    ("lora_", "a LoRA; put it into models/Lora"),
    (".lora_", "a LoRA; put it into models/Lora"),
    ("hada_w1", "a LyCORIS network; put it into models/Lora"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding", "a ControlNet"),
    ("emb_params", "a textual inversion embedding; put it into embeddings"),
    ("motion_modules", "an AnimateDiff motion module"),
)


@dataclass(frozen=True, slots=True)
class Detected:
    """A single-file checkpoint: what it is, and how its parts are built."""

    spec: Spec
    layout: Layout


def detect(weights: Weights, sidecar: Sidecar | None) -> Detected:
    """Tell what an open single file is.

    Where the sidecar is silent or missing:

    - heads: SD 1 has 8 on every level; SD 2 and SDXL have one per 64 channels, or per fewer where 64
      does not divide the narrowest level that attends (only tiny test models).
    - prediction: v if a tensor is named `v_pred`; unknown for SD 2 with four input channels, whose
      network is asked once it is loaded, as A1111 does; else epsilon.
    - zero terminal SNR if a tensor is named `ztsnr`.

    Raises:
        UnsupportedCheckpoint: not SD 1, SD 2 or SDXL in the original layout, or a part is missing.
        UnreadableCheckpoint: its tensors contradict each other.
    """
    shapes = weights.shapes
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise UnsupportedCheckpoint(_stranger(shapes))
    text = read_text(shapes)
    family = _family(text)
    if not any(name.startswith(VAE) for name in shapes):
        raise UnsupportedCheckpoint("The file has no VAE: use a checkpoint with one inside.")
    sidecar = sidecar or Sidecar()
    layout = Layout(read_unet(shapes, family, sidecar), read_vae(shapes), text)
    _check(layout, family, shapes)
    return Detected(_spec(weights, sidecar, layout, family), layout)


def _family(text: tuple[TextSpec, ...]) -> Family:
    """By the place of the text encoders, as A1111 decides."""
    if not text:
        raise UnsupportedCheckpoint("The file has no text encoder that is known: use a complete checkpoint.")
    if text[0].prefix.startswith(SDXL_TEXT):
        return "sdxl"
    return "sd1" if text[0].kind == "clip" else "sd2"


def _check(layout: Layout, family: Family, names: Shapes) -> None:
    unet = layout.unet
    if unet.in_channels not in _IN_CHANNELS or unet.out_channels != layout.vae.latent_channels:
        message = (
            f"Its UNet takes {unet.in_channels} channels and gives {unet.out_channels}, "
            "as those for depth, upscaling or unCLIP do: these are not served."
        )
        raise UnsupportedCheckpoint(message)
    width = sum(text.width for text in layout.text)
    if width != unet.context_dim:
        message = (
            f"Its UNet reads text vectors of {unet.context_dim} values but its text encoders give {width}."
        )
        raise UnreadableCheckpoint(message)
    if "edm_mean" in names or "edm_vpred.sigma_max" in names:
        raise UnsupportedCheckpoint(
            "It is trained with EDM's noise (Playground 2.5, CosXL), which is not served."
        )
    if (family == "sdxl") != (unet.vector_dim is not None):
        raise UnsupportedCheckpoint("Its UNet and its text encoders are of different families.")


def _spec(weights: Weights, sidecar: Sidecar, layout: Layout, family: Family) -> Spec:
    unet = layout.unet
    zero_snr = "ztsnr" in weights.shapes
    alphas = _alphas(weights, sidecar)
    return Spec(
        family=family,
        is_refiner=family == "sdxl" and len(layout.text) == 1,
        is_inpainting=_IN_CHANNELS[unet.in_channels] == "inpainting",
        is_edit=_IN_CHANNELS[unet.in_channels] == "edit",
        prediction=_prediction(weights.shapes, sidecar, family, unet),
        zero_snr=zero_snr,
        alphas=zero_terminal_snr(alphas) if zero_snr else alphas,
        latent_scale=sidecar.latent_scale or LATENT_SCALES[family],
        latent_channels=layout.vae.latent_channels,
        in_channels=unet.in_channels,
        context_dim=unet.context_dim,
        vector_dim=unet.vector_dim,
        text=tuple(text.kind for text in layout.text),
    )


def _prediction(shapes: Shapes, sidecar: Sidecar, family: Family, unet: UNetSpec) -> PredictionType | None:
    if "v_pred" in shapes:
        return "v"
    if sidecar.prediction is None and family == "sd2" and unet.in_channels == unet.out_channels:
        return None
    return sidecar.prediction or "epsilon"


def _alphas(weights: Weights, sidecar: Sidecar) -> tuple[float, ...]:
    """The file's own table wins, as when the original code loads it."""
    if "alphas_cumprod" not in weights.shapes:
        return scaled_linear(sidecar.beta_start or 0.00085, sidecar.beta_end or 0.012)
    table: list[float] = weights.tensor("alphas_cumprod").float().flatten().tolist()
    decreasing = all(first >= second for first, second in pairwise(table))
    if len(table) != TIMESTEPS or not decreasing or not 0 <= table[-1] <= table[0] <= 1:
        raise UnreadableCheckpoint("Its alphas_cumprod is no falling table of 1000 values between 0 and 1.")
    return tuple(table)


def _stranger(shapes: Shapes) -> str:
    for piece, words in _OTHERS:
        if any(piece in name for name in shapes):
            return f"The file is {words}: only SD 1, SD 2 and SDXL checkpoints can be loaded here."
    if any(name.startswith(("encoder.", VAE)) for name in shapes):
        return "The file is a VAE; put it into models/VAE."
    return "The file is no Stable Diffusion 1, 2 or SDXL checkpoint in the original single-file layout."
