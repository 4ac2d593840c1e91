"""What a checkpoint is, as far as others than the bundle need to know."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["sd1", "sd2", "sdxl"]
PredictionType = Literal["epsilon", "v"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A file that changes a checkpoint's weights or layers: the LoRA family and hypernetworks.

    Attributes:
        path: absolute.
        text_weight, unet_weight: strength for text encoders and UNet.
        dyn_dim: rank to which the low-rank matrices are cut, None for all of it.
    """

    kind: Literal["lora", "hypernetwork"]
    path: str
    text_weight: float
    unet_weight: float
    dyn_dim: int | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """A textual inversion: vectors that stand for a name in prompts."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Model:
    """Everything that a pass runs on.

    Attributes:
        checkpoint: absolute path of the file or folder.
        vae: absolute path of a VAE to use instead of the checkpoint's own, or empty.
        adapters: in the order they are applied.
        embeddings: those whose names may stand in the job's prompts.
        tiling: every convolution pads circularly, so that pictures can be put side by side.
    """

    checkpoint: str
    vae: str = ""
    adapters: tuple[Adapter, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    tiling: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a loaded checkpoint that a program computes with.

    Attributes:
        model: what they are the facts of.
        latent_channels: 4 for all Stable Diffusion families.
        alphas: the cumulative products of alpha, one per timestep 0..999.
        device: where latents and noise live, as torch names it.
        inpainting: whether the UNet takes mask and masked image beside the latent (9 channels).
        is_refiner: SDXL's refiner, which is given an aesthetic score.
    """

    model: Model
    family: Family
    prediction: PredictionType
    latent_channels: int
    alphas: tuple[float, ...]
    inpainting: bool
    device: str = "cpu"
    is_refiner: bool = False
