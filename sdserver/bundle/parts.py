"""A checkpoint's networks, built empty from their dimensions."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdserver.bundle.device import Placement
from sdserver.bundle.spec import Spec, TextSpec, UNetSpec, VaeSpec
from sdserver.jobs.model import Family


@dataclass(frozen=True, slots=True)
class Parts:
    """The loaded networks of a checkpoint.

    Attributes:
        unet: diffusers' UNet2DConditionModel.
        vae: diffusers' AutoencoderKL.
        text: transformers' CLIPTextModel or CLIPTextModelWithProjection, in the order of `spec.text`.
    """

    spec: Spec
    unet: nn.Module
    vae: nn.Module
    text: tuple[nn.Module, ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the data of a checkpoint that was checked. May be called once.

    Attributes:
        family: of the checkpoint.
        numbers: how many its networks consist of.
        read: what reads them to a device.
    """

    family: Family
    numbers: int
    read: Callable[[Placement], Parts]

    def __call__(self, placement: Placement) -> Parts:
        return self.read(placement)


def numbers_of(networks: Iterable[nn.Module]) -> int:
    """How many numbers networks consist of."""
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def empty_unet(spec: UNetSpec) -> nn.Module:
    """A UNet without data. SDXL's vector enters as a class embedding: it is the same sum as in the
    original network, and takes the whole vector instead of its pieces.
    """
    attends = [any(depths) for depths in spec.down_depths]
    inner = [list(depths) for depths in spec.down_depths]
    inner[-1] = [spec.mid_depth] * spec.res_blocks  # diffusers builds the middle from the last level's entry
    with torch.device("meta"):
        unet: nn.Module = UNet2DConditionModel(
            in_channels=spec.in_channels,
            out_channels=spec.out_channels,
            block_out_channels=spec.widths,
            layers_per_block=spec.res_blocks,
            down_block_types=tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)
            ),
            transformer_layers_per_block=inner,
            reverse_transformer_layers_per_block=[list(depths) for depths in reversed(spec.up_depths)],
            cross_attention_dim=spec.context_dim,
            attention_head_dim=spec.heads,  # diffusers' name for the number of heads
            use_linear_projection=spec.linear_projection,
            class_embed_type=None if spec.vector_dim is None else "projection",
            projection_class_embeddings_input_dim=spec.vector_dim,
        )
    return unet


def empty_vae(spec: VaeSpec) -> nn.Module:
    """An autoencoder without data."""
    levels = len(spec.widths)
    with torch.device("meta"):
        vae: nn.Module = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=spec.widths,
            layers_per_block=spec.res_blocks,
            latent_channels=spec.latent_channels,
        )
    return vae


def empty_text(spec: TextSpec) -> nn.Module:
    """A text encoder without data."""
    config = CLIPTextConfig(
        vocab_size=spec.vocabulary,
        hidden_size=spec.width,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=spec.positions,
        hidden_act="quick_gelu" if spec.kind == "clip" else "gelu",
        projection_dim=spec.projection or spec.width,
    )
    kind = CLIPTextModel if spec.projection is None else CLIPTextModelWithProjection
    with torch.device("meta"):
        text: nn.Module = kind(config)
    return text
