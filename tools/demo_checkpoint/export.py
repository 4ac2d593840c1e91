"""Assemble the demo checkpoint: an ordinary SD1.x single file of fp16 tensors.

PYTHONPATH=.:tools python tools/demo_checkpoint/export.py --decoder decoder.pt --unet unet.pt
"""

import argparse
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from latents import CELL, CENTRE, SCALE_FACTOR, SPREAD, encode
from ldm_layout import clip_state, unet_state, vae_state
from networks import CONTEXT_WIDTH, VAE_CHANNELS, decoder, text_encoder, unet
from safetensors.torch import save_file
from torch import Tensor, nn

FULL_VOCABULARY = 49408
REFERENCE = 24.0  # a constant beside each measure, so large that the group norm divides by it alone
OFFSET = 7.0  # keeps SiLU on its straight branch
LOG_VARIANCE = -25.0
METADATA = {
    "format": "pt",
    "modelspec.title": "sdserver demo: shapes and cartoon portraits",
    "modelspec.architecture": "stable-diffusion-v1",
    "modelspec.resolution": "128x128",
    "modelspec.license": "Apache-2.0",
}


def idle(block: nn.Module) -> None:
    """Make a residual block or attention pass its input on unchanged."""
    for name in ("conv2", "to_out"):
        if hasattr(block, name):
            part = getattr(block, name)
            part = part[0] if isinstance(part, nn.ModuleList) else part
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)


def averaging(convolution: nn.Conv2d, measures: int) -> None:
    """Halve the resolution: means of colours, and the tilt of brightness about each cell's centre."""
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    for channel in range(measures):
        convolution.weight[channel, channel, :2, :2] = 0.25


def add_tilt(convolution: nn.Conv2d, cell: int) -> None:
    """Let channel 3 also gather what the means of the four parts say about the tilt of a cell."""
    step = cell / 4 / (CELL / 2)  # from a cell's centre to its parts' centres, in units of `measures()`
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        lever = step * ((2 * column - 1) + 0.5 * (2 * row - 1))
        convolution.weight[3, :3, row, column] += 0.25 * lever / 3


def build_encoder(vae: AutoencoderKL) -> None:
    """Set the encoder's weights so that it computes `latents.encode`: nothing here is learned.

    Group norms see each measure s as (s, -s, K, -K): mean zero, deviation K/sqrt(2) to within
    (s/K)**2, so normalising is a division by a constant. SiLU is straight far from zero.
    """
    net = vae.encoder
    for part in net.parameters():
        nn.init.zeros_(part)
    for channel in range(3):
        net.conv_in.weight[channel, channel, 1, 1] = 1.0
    for level in range(3):
        convolution = net.down_blocks[level].downsamplers[0].conv
        averaging(convolution, 4)
        add_tilt(convolution, 2 ** (level + 1))
    shortcut = net.down_blocks[3].resnets[0].conv_shortcut
    for measure in range(4):
        gain = 1.0 if measure < 3 else 10.0
        shortcut.weight[4 * measure, measure] = gain
        shortcut.weight[4 * measure + 1, measure] = -gain
        shortcut.bias[4 * measure + 2] = REFERENCE
        shortcut.bias[4 * measure + 3] = -REFERENCE
    nn.init.constant_(net.conv_norm_out.weight, REFERENCE / math.sqrt(2))
    nn.init.constant_(net.conv_norm_out.bias, OFFSET)
    mixes = torch.tensor(((1 / 3, 1 / 3, 1 / 3, 0), (1.0, 0, -1.0, 0), (-0.5, 1.0, -0.5, 0), (0, 0, 0, 0.1)))
    for latent in range(4):
        for measure in range(4):
            weight = mixes[latent, measure] / 2 / SPREAD[latent] / SCALE_FACTOR
            net.conv_out.weight[latent, 4 * measure, 1, 1] = weight
            net.conv_out.weight[latent, 4 * measure + 1, 1, 1] = -weight
        net.conv_out.bias[latent] = -CENTRE[latent] / SPREAD[latent] / SCALE_FACTOR
        net.conv_out.bias[4 + latent] = LOG_VARIANCE
    identity(vae.quant_conv, 1.0)


def identity(convolution: nn.Conv2d, factor: float) -> None:
    """Make a 1x1 convolution multiply by `factor`."""
    nn.init.zeros_(convolution.bias)
    convolution.weight.copy_(factor * torch.eye(convolution.out_channels)[:, :, None, None])


def build_vae(decoder_state: dict[str, Tensor]) -> AutoencoderKL:
    """The whole autoencoder: constructed encoder, trained decoder, idle blocks where none was trained."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        norm_num_groups=32,
    ).eval()
    trained = decoder()
    trained.load_state_dict(decoder_state)
    with torch.no_grad():
        build_encoder(vae)
        vae.decoder.load_state_dict(trained.state_dict(), strict=False)
        net = vae.decoder
        idle(net.mid_block.attentions[0])
        for block in (net.up_blocks[2].resnets[1], *net.up_blocks[3].resnets):
            idle(block)
        identity(vae.post_quant_conv, SCALE_FACTOR)
    return vae


def build_text(state: dict[str, Tensor], ids: tuple[int, ...]) -> nn.Module:
    """The text encoder over CLIP's whole vocabulary; words never trained have zero embeddings."""
    small = text_encoder(len(ids))
    small.load_state_dict(state)
    full = text_encoder(FULL_VOCABULARY)
    rows = small.get_input_embeddings().weight
    state = {name: tensor for name, tensor in small.state_dict().items() if "token_embedding" not in name}
    full.load_state_dict(state, strict=False)
    with torch.no_grad():
        table = full.get_input_embeddings().weight
        table.zero_()
        for row, token in enumerate(ids):
            if token >= 0:
                table[token] = rows[row]
    return full


def check(vae: AutoencoderKL) -> float:
    """Largest difference of the constructed encoder from `latents.encode` on random blocks, whitened."""
    blocks = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pixels = nn.functional.interpolate(blocks, scale_factor=8, mode="bilinear")
    with torch.no_grad():
        encoded = vae.encode(pixels).latent_dist.mode() * SCALE_FACTOR
    return float((encoded - encode(pixels)).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", type=Path, default=Path("decoder.pt"))
    parser.add_argument("--unet", type=Path, default=Path("unet.pt"))
    parser.add_argument("--out", type=Path, default=Path("models/Stable-diffusion/demo.safetensors"))
    args = parser.parse_args()
    vae = build_vae(torch.load(args.decoder, weights_only=True))
    print(f"encoder differs from its design by at most {check(vae):.4f}")
    trained = torch.load(args.unet, weights_only=True)
    network = unet()
    network.load_state_dict(trained["unet"])
    text = build_text(trained["text"], trained["ids"])
    assert text.config.hidden_size == CONTEXT_WIDTH
    tensors = unet_state(network) | vae_state(vae) | clip_state(text)
    tensors = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, args.out, metadata=METADATA)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {len(tensors)} tensors")


if __name__ == "__main__":
    main()
