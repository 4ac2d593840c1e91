"""Checkpoints with random weights as diffusers folders: of no use for pictures, valid for time.

    python -m bench.random_checkpoint sd15 FOLDER
    python -m bench.random_checkpoint sd15 FOLDER --single-file

The sizes are the published ones of Stable Diffusion 1.5 and SDXL, and a tiny one of each. Single files are in
the original layout; there are none of SDXL.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdserver.bundle.tokenizer import clip_tokenizer
from tools.ldm_layout import clip_state, unet_state, vae_state

SPREAD: Final = 0.02
"""Standard deviation of the weights; norms keep what comes out within fp16."""
SIZE_NUMBERS: Final = 6 * 256
"""Of SDXL's vector, beside the pooled text."""


@dataclass(frozen=True, slots=True)
class Text:
    """Dimensions of a text encoder; `projection` is None where nothing is pooled."""

    width: int
    layers: int
    heads: int
    activation: str
    projection: int | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """Dimensions of a checkpoint; `depths` are transformer blocks per level, 0 is no attention."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: int | tuple[int, ...]
    vae: tuple[int, ...]
    text: tuple[Text, ...]

    @property
    def is_xl(self) -> bool:
        return len(self.text) == 2


_CLIP, _BIG = Text(768, 12, 12, "quick_gelu"), Text(1280, 32, 20, "gelu", 1280)
_TINY, _TINY_BIG = Text(64, 2, 4, "quick_gelu"), Text(64, 2, 4, "gelu", 64)
KINDS: Final = {
    "sd15": Kind((320, 640, 1280, 1280), (1, 1, 1, 0), 8, (128, 256, 512, 512), (_CLIP,)),
    "sdxl": Kind((320, 640, 1280), (0, 2, 10), (5, 10, 20), (128, 256, 512, 512), (_CLIP, _BIG)),
    "tiny-sd15": Kind((32, 64, 96, 96), (1, 1, 1, 0), 8, (32, 64, 64, 64), (_TINY,)),
    "tiny-sdxl": Kind((32, 64, 96), (0, 1, 2), (1, 2, 3), (32, 64, 64, 64), (_TINY, _TINY_BIG)),
}


def write(name: str, folder: Path, device: str = "cpu") -> Path:
    """Write a checkpoint in fp16, unless it is there already.

    Args:
        name: of one of `KINDS`.
        folder: the checkpoint is put into it under its name.
        device: where the weights are drawn.
    """
    place = folder / f"random-{name}"
    if (place / "model_index.json").is_file():
        return place
    kind = KINDS[name]
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", model_max_length=77)
    shared = {
        "vae": filled(empty_vae(kind), device),
        "unet": filled(empty_unet(kind), device),
        "tokenizer": tokenizer,
        "scheduler": EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        "feature_extractor": None,
    }
    texts = [filled(empty_text(text), device) for text in kind.text]
    pipeline: Any
    if kind.is_xl:
        pipeline = StableDiffusionXLPipeline(
            text_encoder=texts[0], text_encoder_2=texts[1], tokenizer_2=tokenizer, **shared
        )
    else:
        pipeline = StableDiffusionPipeline(
            text_encoder=texts[0], safety_checker=None, requires_safety_checker=False, **shared
        )
    pipeline.save_pretrained(place)
    return place


def write_file(name: str, folder: Path, device: str = "cpu") -> Path:
    """Write a checkpoint of one text encoder in fp16 as a single file, unless it is there already.

    Args:
        name: of one of `KINDS`.
        folder: the file is put into it.
        device: where the weights are drawn.

    Raises:
        ValueError: it has two text encoders.
    """
    place = folder / f"random-{name}.safetensors"
    if place.is_file():
        return place
    kind = KINDS[name]
    if kind.is_xl:
        raise ValueError(f"{name} is written as a folder only.")
    tensors = {
        **unet_state(filled(empty_unet(kind), device)),
        **vae_state(filled(empty_vae(kind), device)),
        **clip_state(filled(empty_text(kind.text[0]), device)),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place)
    return place


def filled(module: nn.Module, device: str, dtype: torch.dtype = torch.float16) -> nn.Module:
    """Random weights for a network without data: norms begin as they do in training."""
    module = module.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, SPREAD, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for buffer in (one for name, one in module.named_buffers() if name.endswith("position_ids")):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return module.eval().requires_grad_(False)


def empty_unet(kind: Kind) -> nn.Module:
    """A UNet without data."""
    attends = [depth > 0 for depth in kind.depths]
    xl = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": (kind.text[-1].projection or 0) + SIZE_NUMBERS,
    }
    with torch.device("meta"):
        unet: nn.Module = UNet2DConditionModel(
            block_out_channels=kind.widths,
            down_block_types=tuple("CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attends)),
            transformer_layers_per_block=tuple(max(1, depth) for depth in kind.depths),
            cross_attention_dim=sum(text.width for text in kind.text),
            attention_head_dim=kind.heads,
            use_linear_projection=kind.is_xl,
            **(xl if kind.is_xl else {}),
        )
    return unet


def empty_vae(kind: Kind) -> nn.Module:
    """An autoencoder without data."""
    levels = len(kind.vae)
    with torch.device("meta"):
        vae: nn.Module = AutoencoderKL(
            block_out_channels=kind.vae,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            scaling_factor=0.13025 if kind.is_xl else 0.18215,
            force_upcast=False,
        )
    return vae


def empty_text(text: Text) -> nn.Module:
    """A text encoder without data."""
    config = CLIPTextConfig(
        hidden_size=text.width,
        intermediate_size=4 * text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        hidden_act=text.activation,
        projection_dim=text.projection or text.width,
        eos_token_id=49407,
    )
    kind = CLIPTextModel if text.projection is None else CLIPTextModelWithProjection
    with torch.device("meta"):
        encoder: nn.Module = kind(config)
    return encoder


def main() -> int:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=sorted(KINDS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--single-file", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    writer = write_file if args.single_file else write
    print(json.dumps({"written": str(writer(args.name, args.folder, args.device))}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
