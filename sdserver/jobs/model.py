"""What a checkpoint is, as far as others than the bundle need to know."""

from dataclasses import dataclass, replace
from typing import Literal

Family = Literal["sd1", "sd2", "sdxl"]
PredictionType = Literal["epsilon", "v"]
VaeMethod = Literal["full", "taesd"]
"""What stands between pictures and latents: the VAE, or the small autoencoder TAESD."""

Storage = Literal["full", "fp8", "fp8 for sdxl"]
"""How a checkpoint's weights lie in memory: as the device computes, or in 8 bits, always or for SDXL."""


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
class TileRule:
    """Self-attention within tiles of the picture, as A1111's Hypertile does it.

    Attributes:
        max_depth: 0 to 3: down to which level of the network.
        max_tile: pixels a side that tiles have at most, as far as they need not be larger.
        swap: among how many sizes of tiles one is drawn, at least 1.
    """

    max_depth: int
    max_tile: int
    swap: int


@dataclass(frozen=True, slots=True)
class Attention:
    """How self-attention is made cheaper; by default it is not.

    Attributes:
        merging: share of the tokens that are merged before it (Bolya & Hoffman, 2023), 0 to 1.
        unet, vae: within tiles, None for all of the picture at once.
        width, height: of the pass, in pixels, where something is tiled.
        seed: of the draws of tile sizes, where something is tiled.
    """

    merging: float = 0.0
    unet: TileRule | None = None
    vae: TileRule | None = None
    width: int = 0
    height: int = 0
    seed: int = 0

    def of_unet(self) -> "Attention":
        """What of it a UNet's batches have to share."""
        return replace(self, vae=None) if self.unet else Attention(self.merging)

    def of_vae(self) -> "Attention":
        """What of it a VAE's batches have to share."""
        return replace(self, merging=0.0, unet=None) if self.vae else Attention()


@dataclass(frozen=True, slots=True)
class Model:
    """Everything that a pass runs on.

    Attributes:
        checkpoint: absolute path of the file or folder.
        vae: absolute path of a VAE to use instead of the checkpoint's own, or empty.
        adapters: in the order they are applied.
        embeddings: those whose names may stand in the job's prompts.
        tiling: every convolution pads circularly, so that pictures can be put side by side.
        attention: of the UNet and the VAE's decoder.
        encoder, decoder: of pictures and latents.
        storage: of the weights of UNet and text encoders.
        keeps_fp16: where the weights lie in 8 bits, adapters change what they were in 16 bits.
    """

    checkpoint: str
    vae: str = ""
    adapters: tuple[Adapter, ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    tiling: bool = False
    attention: Attention = Attention()
    encoder: VaeMethod = "full"
    decoder: VaeMethod = "full"
    storage: Storage = "full"
    keeps_fp16: bool = False

    @property
    def weights(self) -> str:
        """What has to be loaded for it: the checkpoint, and how its weights are to lie in memory."""
        if self.storage == "full":
            return self.checkpoint
        return f"{self.checkpoint} as {self.storage}{' beside fp16' if self.keeps_fp16 else ''}"


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
        is_fp8: the weights of UNet and text encoders lie in 8 bits.
        threads: of the processor that computes; None where another device does.
    """

    model: Model
    family: Family
    prediction: PredictionType
    latent_channels: int
    alphas: tuple[float, ...]
    inpainting: bool
    device: str = "cpu"
    is_refiner: bool = False
    is_fp8: bool = False
    threads: int | None = None
