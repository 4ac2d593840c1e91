"""What a checkpoint is: the facts that loading and inference need, read off the file."""

from dataclasses import dataclass
from typing import Literal

from sdserver.jobs.model import Family, PredictionType

TextKind = Literal["clip", "open_clip"]


@dataclass(frozen=True, slots=True)
class UNetSpec:
    """Dimensions of a UNet.

    Attributes:
        widths: channels per level, outermost first.
        res_blocks: residual blocks per level on the way down; one more on the way up.
        down_depths: transformer blocks behind each residual block, per level; 0 is no attention.
        mid_depth: transformer blocks in the middle.
        up_depths: as `down_depths` on the way up, listed by level outermost first.
        heads: attention heads per level.
        linear_projection: whether transformers project by a linear layer instead of a 1x1 convolution.
        vector_dim: width of SDXL's pooled text and size vector, None for other families.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    res_blocks: int
    down_depths: tuple[tuple[int, ...], ...]
    mid_depth: int
    up_depths: tuple[tuple[int, ...], ...]
    context_dim: int
    heads: tuple[int, ...]
    linear_projection: bool
    vector_dim: int | None


@dataclass(frozen=True, slots=True)
class VaeSpec:
    """Dimensions of an autoencoder; the latent side is the picture's divided by 2**(levels - 1)."""

    widths: tuple[int, ...]
    res_blocks: int
    latent_channels: int


@dataclass(frozen=True, slots=True)
class TextSpec:
    """Dimensions of a text encoder.

    Attributes:
        prefix: what its tensors' names begin with in the file.
        projection: width of the pooled output, None where none is used.
    """

    kind: TextKind
    prefix: str
    width: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    projection: int | None


@dataclass(frozen=True, slots=True)
class Spec:
    """What inference needs to know of a checkpoint, whatever its layout.

    Attributes:
        is_refiner: SDXL's refiner: one text encoder, and an aesthetic score in its vector.
        is_edit: InstructPix2Pix: the UNet takes the picture to edit beside the latent (8 channels).
        prediction: None where the file does not tell and the loaded network has to be asked.
        zero_snr: whether the last timestep is made pure noise.
        alphas: cumulative products of alpha, one per timestep.
        latent_scale: latents are divided by this before they are decoded.
        text: kinds of the text encoders, in the order their vectors are joined.
        last_layer_cut: whether OpenCLIP comes without its last layer, which SD 2 does not use: so do
            diffusers' folders.
    """

    family: Family
    is_refiner: bool
    is_inpainting: bool
    is_edit: bool
    prediction: PredictionType | None
    zero_snr: bool
    alphas: tuple[float, ...]
    latent_scale: float
    latent_channels: int
    in_channels: int
    context_dim: int
    vector_dim: int | None
    text: tuple[TextKind, ...]
    last_layer_cut: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Dimensions of all parts of a single-file checkpoint."""

    unet: UNetSpec
    vae: VaeSpec
    text: tuple[TextSpec, ...]
