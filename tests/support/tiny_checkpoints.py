"""Tiny random checkpoints in the original single-file layout, made from diffusers' modules.

The renaming here is written apart from `sdserver.bundle.convert`, in the other direction, so that a
round trip proves something.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdserver.jobs.model import Family

TEXT_WIDTH = 32
POOLED = 24
SIZES = 6 * 256

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Original:
    """The modules that a checkpoint was written from, in float32."""

    unet: nn.Module
    vae: nn.Module
    text: tuple[nn.Module, ...]


Write = Callable[..., tuple[Path, Original]]
"""The type of the fixture `checkpoint`: writes one and returns its path and its modules."""


def make(
    family: Family, *, in_channels: int = 4, head_channels: int | None = None, seed: int = 0
) -> Original:
    """Random modules whose values fit float16.

    Attention heads are as the loader guesses them, 32 channels each for SD 2 and 64 for SDXL, unless
    `head_channels` says otherwise.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = _unet(family, in_channels, head_channels or (64 if family == "sdxl" else 32))
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
        )
        kinds: dict[str, tuple[Callable[[], nn.Module], ...]] = {
            "sd1": (_clip,),
            "sd2": (_open_clip,),
            "sdxl": (_clip, _open_clip_pooled),
        }
        text = tuple(kind() for kind in kinds[family])
        for module in (unet, vae, *text):
            module.eval().requires_grad_(False)
            for parameter in module.parameters():
                if parameter.ndim == 1:  # norms start as 1 and 0: swapped ones would not show
                    parameter.add_(torch.empty_like(parameter).normal_(), alpha=0.1)
            module.half().float()
    return Original(unet, vae, text)


def full_size(family: Family) -> Original:
    """The published dimensions of SD 1.5, 2.1 and SDXL, without data."""
    xl = family == "sdxl"
    heads: dict[Family, tuple[int, ...]] = {"sd1": (8, 8, 8, 8), "sd2": (5, 10, 20, 20), "sdxl": (5, 10, 20)}
    contexts: dict[Family, int] = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
    attends = (False, True, True) if xl else (True, True, True, False)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280) if xl else (320, 640, 1280, 1280),
            down_block_types=tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)
            ),
            transformer_layers_per_block=(1, 2, 10) if xl else 1,
            cross_attention_dim=contexts[family],
            attention_head_dim=heads[family],
            use_linear_projection=family != "sd1",
            addition_embed_type="text_time" if xl else None,
            addition_time_embed_dim=256 if xl else None,
            projection_class_embeddings_input_dim=2816 if xl else None,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        small = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12)
        huge = CLIPTextConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
        )
        big = CLIPTextConfig(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
        )
        text: dict[Family, Callable[[], tuple[nn.Module, ...]]] = {
            "sd1": lambda: (CLIPTextModel(small),),
            "sd2": lambda: (CLIPTextModel(huge),),
            "sdxl": lambda: (CLIPTextModel(small), CLIPTextModelWithProjection(big)),
        }
        return Original(unet, vae, text[family]())


def tensors(family: Family, original: Original) -> Tensors:
    """All tensors under their names in the original layout, float16."""
    unet: Any = original.unet
    vae: Any = original.vae
    levels = len(vae.config.block_out_channels)
    found = _prefixed("model.diffusion_model.", unet_tensors(unet.state_dict(), unet.config.layers_per_block))
    found |= {f"first_stage_model.{vae_name(k, levels)}": _conv(k, v) for k, v in vae.state_dict().items()}
    if family == "sd1":
        found |= _prefixed("cond_stage_model.transformer.text_model.", original.text[0].state_dict())
        found["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77).expand(
            1, -1
        )
    elif family == "sd2":
        found |= _prefixed("cond_stage_model.model.", open_clip(original.text[0].state_dict()))
        found["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    else:
        found |= _prefixed("conditioner.embedders.0.transformer.text_model.", original.text[0].state_dict())
        found |= _prefixed("conditioner.embedders.1.model.", open_clip(original.text[1].state_dict()))
    return {k: v.half().contiguous() if v.is_floating_point() else v.contiguous() for k, v in found.items()}


def write(path: Path, family: Family, original: Original, extra: Tensors | None = None) -> Path:
    """Write the modules as a checkpoint file."""
    save_file(tensors(family, original) | (extra or {}), path, metadata={"format": "pt"})
    return path


def _unet(family: Family, in_channels: int, head_channels: int) -> nn.Module:
    """Three levels, of which SD's last and SDXL's first do not attend."""
    xl = family == "sdxl"
    widths = (32, 64, 64)
    attends = (not xl, True, xl)
    unet: nn.Module = UNet2DConditionModel(
        in_channels=in_channels,
        block_out_channels=widths,
        layers_per_block=1 if xl else 2,
        down_block_types=tuple("CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        transformer_layers_per_block=(1, 2, 3) if xl else 1,
        cross_attention_dim=2 * TEXT_WIDTH if xl else TEXT_WIDTH,
        attention_head_dim=8 if family == "sd1" else tuple(width // head_channels for width in widths),
        use_linear_projection=family != "sd1",
        addition_embed_type="text_time" if xl else None,
        addition_time_embed_dim=256 if xl else None,
        projection_class_embeddings_input_dim=POOLED + SIZES if xl else None,
    )
    return unet


def _config(activation: str, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        hidden_act=activation,
        projection_dim=POOLED,
        initializer_factor=20.0,  # CLIP's own start is so small that all texts look alike
    )


def _clip() -> nn.Module:
    model: nn.Module = CLIPTextModel(_config("quick_gelu", 3))
    return model


def _open_clip() -> nn.Module:
    model: nn.Module = CLIPTextModel(_config("gelu", 2))
    return model


def _open_clip_pooled() -> nn.Module:
    model: nn.Module = CLIPTextModelWithProjection(_config("gelu", 2))
    return model


def _prefixed(prefix: str, state: Tensors) -> Tensors:
    return {prefix + name: value for name, value in state.items()}


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_SINGLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}


def unet_tensors(state: Tensors, rows: int) -> Tensors:
    """LDM's names for the tensors of diffusers' UNet with `rows` residual blocks a level."""
    return {_unet_name(name, rows, state): value for name, value in state.items()}


def _unet_name(name: str, rows: int, state: Tensors) -> str:
    stem, _, suffix = name.rpartition(".")
    if stem in _SINGLE:
        return f"{_SINGLE[stem]}.{suffix}"
    way, *rest = re.split(r"\.", name, maxsplit=3 if name.startswith("mid") else 4)
    if way == "mid_block":
        kind, row, inner = rest
        return f"{_MIDDLE[f'{kind}.{row}']}.{_inner(kind, inner)}"
    level, kind, row, inner = int(rest[0]), rest[1], int(rest[2]), rest[3]
    column = 0 if kind == "resnets" else 1
    if way == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (rows + 1)}.0.op.{suffix}"
        return f"input_blocks.{1 + level * (rows + 1) + row}.{column}.{_inner(kind, inner)}"
    if kind == "upsamplers":
        column = 2 if any(other.startswith(f"up_blocks.{level}.attentions") for other in state) else 1
        return f"output_blocks.{level * (rows + 1) + rows}.{column}.conv.{suffix}"
    return f"output_blocks.{level * (rows + 1) + row}.{column}.{_inner(kind, inner)}"


def _inner(kind: str, name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return f"{_RESNET[stem]}.{suffix}" if kind == "resnets" else name


def vae_name(name: str, levels: int) -> str:
    """LDM's name of a tensor of diffusers' autoencoder."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        name = re.sub(r"\.to_([qkv])\.", r".\1.", name).replace("to_out.0", "proj_out")
    return name


def _conv(name: str, value: Tensor) -> Tensor:
    """LDM's autoencoder attends with 1x1 convolutions."""
    return value[:, :, None, None] if "attentions" in name and value.ndim == 2 else value


def open_clip(state: Tensors) -> Tensors:
    """OpenCLIP's tensors from those of transformers' text model."""
    state = {name.removeprefix("text_model."): value for name, value in state.items()}
    found: Tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["embeddings.token_embedding.weight"].new_zeros(2, 2),
    }
    if "text_projection.weight" in state:
        found["text_projection"] = state["text_projection.weight"].T
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    for name, value in state.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", name):
            layer, part, kind = match.groups()
            if part in names:
                found[f"transformer.resblocks.{layer}.{names[part]}.{kind}"] = value
            elif part == "self_attn.q_proj":
                three = [state[f"encoder.layers.{layer}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                found[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(three)
    return found
