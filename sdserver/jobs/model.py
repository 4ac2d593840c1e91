"""What a checkpoint is, as far as others than the bundle need to know."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["sd1", "sd2", "sdxl"]
PredictionType = Literal["epsilon", "v"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts of a loaded checkpoint that a program computes with.

    Attributes:
        key: the checkpoint's identity: its absolute path.
        latent_channels: 4 for all Stable Diffusion families.
        alphas: the cumulative products of alpha, one per timestep 0..999.
        device: where latents and noise live, as torch names it.
        inpainting: whether the UNet takes mask and masked image beside the latent (9 channels).
    """

    key: str
    family: Family
    prediction: PredictionType
    latent_channels: int
    alphas: tuple[float, ...]
    inpainting: bool
    device: str = "cpu"
