"""BLIP as its authors published it (one file, key `model`): its parameters by transformers' names."""

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor
from transformers import BlipConfig

INSIDE: Final = "model"
"""What the file has its tensors under."""

HEAD_WIDTH: Final = 64
"""Of every attention head, in all of BLIP's sizes; parameters do not tell it."""

_VISION: Final = (
    (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
    (r"visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
    (r"visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision_model.encoder.layers.\1.self_attn.qkv."),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
)
"""Patterns of the authors' names, from the beginning, and what stands in the place of the match."""

_TEXT: Final = "text_decoder."
_COUNTED: Final = "text_decoder.bert.embeddings.position_ids"
"""Only counts upwards; transformers makes its own."""


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of what describes pictures, by transformers' names; others are left out."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_TEXT) and name != _COUNTED:
            result[name] = tensor
        for pattern, ours in _VISION:
            new, count = re.subn("^" + pattern, ours, name)
            if count:
                result[new] = tensor
    return result


def configuration(state: Mapping[str, Tensor], mark: int, padding: int) -> BlipConfig:
    """What parameters, renamed, tell of their network; the rest is as in all of BLIP's sizes.

    Args:
        state: as `renamed` returns it.
        mark: number of the word that ends a text.
        padding: number of the word that fills texts up.

    Raises:
        ValueError: the parameters are not those of a BLIP that describes pictures.
    """
    words, width = _shape(state, "text_decoder.bert.embeddings.word_embeddings.weight", 2)
    positions, _ = _shape(state, "text_decoder.bert.embeddings.position_embeddings.weight", 2)
    inner, _ = _shape(state, "text_decoder.bert.encoder.layer.0.intermediate.dense.weight", 2)
    seen, _, patch, _ = _shape(state, "vision_model.embeddings.patch_embedding.weight", 4)
    cells = _shape(state, "vision_model.embeddings.position_embedding", 3)[1] - 1
    seen_inner, _ = _shape(state, "vision_model.encoder.layers.0.mlp.fc1.weight", 2)
    side = round(cells**0.5)
    if side * side != cells or width % HEAD_WIDTH or seen % HEAD_WIDTH or not cells or words < 3:
        raise ValueError("its parameters are of sizes that BLIP does not have")
    return BlipConfig(
        text_config={
            "vocab_size": words,
            "hidden_size": width,
            "encoder_hidden_size": seen,
            "intermediate_size": inner,
            "num_hidden_layers": _layers(state, "text_decoder.bert.encoder.layer."),
            "num_attention_heads": width // HEAD_WIDTH,
            "max_position_embeddings": positions,
            "layer_norm_eps": 1e-12,
            "bos_token_id": words - 2,  # its authors add two marks behind BERT's words: this one begins texts
            "sep_token_id": mark,
            "pad_token_id": padding,
        },
        vision_config={
            "hidden_size": seen,
            "intermediate_size": seen_inner,
            "num_hidden_layers": _layers(state, "vision_model.encoder.layers."),
            "num_attention_heads": seen // HEAD_WIDTH,
            "image_size": side * patch,
            "patch_size": patch,
            "layer_norm_eps": 1e-6,
        },
    )


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    tensor = state.get(name)
    if tensor is None:
        raise ValueError(f"it lacks {name}")
    if tensor.dim() != dimensions or not tensor.numel():
        raise ValueError(f"{name} is of the shape {tuple(tensor.shape)}")
    return tuple(tensor.shape)


def _layers(state: Mapping[str, Tensor], before: str) -> int:
    numbers = {name.removeprefix(before).partition(".")[0] for name in state if name.startswith(before)}
    return sum(str(number) in numbers for number in range(len(numbers)))
