"""The demo checkpoint's networks: ordinary SD1.x modules, only narrower.

Every group norm keeps Stable Diffusion's 32 groups, so no layer may be narrower than 64 channels:
one channel a group would be an instance norm, which forgets an image's mean colour.
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import Decoder
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

CONTEXT_WIDTH = 128
VAE_CHANNELS = (64, 64, 64, 128)
UNET_CHANNELS = (64, 128, 128, 128)


class Skip(nn.Module):
    """Stands for a residual block whose residual is zero."""

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return hidden


def decoder() -> Decoder:
    """The VAE's decoder with its idle residual blocks left out (see `export.py`).

    The mid block's attention is idle too: trained on crops, it would meet larger pictures
    unprepared. At full resolution only the up-sampling convolution and the output layers work.
    """
    net = Decoder(
        in_channels=4,
        out_channels=3,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        norm_num_groups=32,
    )
    net.mid_block.attentions[0] = Skip()
    net.up_blocks[2].resnets[1] = Skip()
    net.up_blocks[3].resnets = nn.ModuleList([Skip(), Skip()])
    return net


def unet() -> UNet2DConditionModel:
    """The UNet: attention at a half, a quarter and an eighth of the latent resolution."""
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=UNET_CHANNELS,
        layers_per_block=1,
        down_block_types=(
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONTEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=32,
    )


def text_encoder(vocabulary: int) -> CLIPTextModel:
    """A CLIP text model of two layers over `vocabulary` token rows."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=CONTEXT_WIDTH,
            intermediate_size=4 * CONTEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
        )
    )
