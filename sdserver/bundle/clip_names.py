"""CLIP as OpenAI published it: its parameters by transformers' names."""

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor
from transformers import CLIPConfig

from sdserver.bundle.tokenizer import END_ID, START_ID

WORDS: Final = END_ID + 1
HEAD_WIDTH: Final = 64
"""Of every attention head; parameters do not tell it."""

_OUTSIDE: Final = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_TURNED: Final = ("visual.proj", "text_projection")
"""Matrices that OpenAI multiplies with from the other side."""

_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.?(weight|bias)")
_INSIDE: Final = {
    "ln_1.": ("layer_norm1.",),
    "ln_2.": ("layer_norm2.",),
    "mlp.c_fc.": ("mlp.fc1.",),
    "mlp.c_proj.": ("mlp.fc2.",),
    "attn.out_proj.": ("self_attn.out_proj.",),
    "attn.in_proj_": ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
}
"""A block's layers; what OpenAI has in one, one above the other, transformers has in three."""


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by transformers' names; others are left out."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _OUTSIDE:
            result[_OUTSIDE[name]] = tensor.T if name in _TURNED else tensor
        elif (found := _BLOCK.fullmatch(name)) and found[3] in _INSIDE:
            tower = "vision_model" if found[1] else "text_model"
            layers = _INSIDE[found[3]]
            for layer, part in zip(layers, tensor.chunk(len(layers)), strict=True):
                result[f"{tower}.encoder.layers.{found[2]}.{layer}{found[4]}"] = part
    return result


def configuration(state: Mapping[str, Tensor]) -> CLIPConfig:
    """What parameters, renamed, tell of their network; the rest is as in all of OpenAI's sizes.

    Raises:
        ValueError: the parameters are not those of a CLIP that looks at pictures by a transformer.
    """
    words, width = _shape(state, "text_model.embeddings.token_embedding.weight", 2)
    positions, _ = _shape(state, "text_model.embeddings.position_embedding.weight", 2)
    seen, _, patch, _ = _shape(state, "vision_model.embeddings.patch_embedding.weight", 4)
    cells = _shape(state, "vision_model.embeddings.position_embedding.weight", 2)[0] - 1
    common, _ = _shape(state, "text_projection.weight", 2)
    side = round(cells**0.5)
    if words != WORDS or side * side != cells or not cells or width % HEAD_WIDTH or seen % HEAD_WIDTH:
        raise ValueError("its parameters are of sizes that CLIP does not have")
    return CLIPConfig(
        text_config={
            "vocab_size": words,
            "max_position_embeddings": positions,
            "bos_token_id": START_ID,
            "eos_token_id": END_ID,
            **_tower(state, "text_model", width),
        },
        vision_config={
            "image_size": side * patch,
            "patch_size": patch,
            **_tower(state, "vision_model", seen),
        },
        projection_dim=common,
    )


def _tower(state: Mapping[str, Tensor], name: str, width: int) -> dict[str, int]:
    before = f"{name}.encoder.layers."
    numbers = {key.removeprefix(before).partition(".")[0] for key in state if key.startswith(before)}
    inner, _ = _shape(state, f"{before}0.mlp.fc1.weight", 2)
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": sum(str(number) in numbers for number in range(len(numbers))),
        "num_attention_heads": width // HEAD_WIDTH,
    }


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    tensor = state.get(name)
    if tensor is None:
        raise ValueError(f"it lacks {name}")
    if tensor.dim() != dimensions or not tensor.numel():
        raise ValueError(f"{name} is of the shape {tuple(tensor.shape)}")
    return tuple(tensor.shape)
