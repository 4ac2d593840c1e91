"""BLIP and CLIP with random weights, in files laid out as their authors published them."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_captioner import WORDS
from torch import Tensor, nn
from transformers import BlipConfig, BlipForConditionalGeneration, CLIPConfig, CLIPModel

SMALL = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny_blip(seed: int = 0) -> Any:
    """As Salesforce's in what no parameter tells; weights so large that pictures matter to what is said."""
    count = len(WORDS)
    text = {"bos_token_id": count, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 2}
    large = {"initializer_range": 0.5}
    configuration = BlipConfig(
        text_config={
            **SMALL,
            **text,
            **large,
            "vocab_size": count + 2,
            "max_position_embeddings": 64,
            "layer_norm_eps": 1e-12,
        },
        vision_config={**SMALL, **large, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BlipForConditionalGeneration(configuration).eval()


def salesforce_state(network: Any) -> dict[str, Tensor]:
    """The parameters as in `model_base_caption_capfilt_large.pth`, under its key `model`."""
    given = dict(network.state_dict())
    vision, text = "vision_model.", "text_decoder."
    state = {
        "visual_encoder.cls_token": given.pop(vision + "embeddings.class_embedding"),
        "visual_encoder.pos_embed": given.pop(vision + "embeddings.position_embedding"),
    }
    for end in ("weight", "bias"):
        state[f"visual_encoder.patch_embed.proj.{end}"] = given.pop(
            f"{vision}embeddings.patch_embedding.{end}"
        )
        state[f"visual_encoder.norm.{end}"] = given.pop(f"{vision}post_layernorm.{end}")
        for layer in range(len(network.vision_model.encoder.layers)):
            old, new = f"{vision}encoder.layers.{layer}.", f"visual_encoder.blocks.{layer}."
            state[f"{new}norm1.{end}"] = given.pop(f"{old}layer_norm1.{end}")
            state[f"{new}norm2.{end}"] = given.pop(f"{old}layer_norm2.{end}")
            state[f"{new}attn.qkv.{end}"] = given.pop(f"{old}self_attn.qkv.{end}")
            state[f"{new}attn.proj.{end}"] = given.pop(f"{old}self_attn.projection.{end}")
            state[f"{new}mlp.fc1.{end}"] = given.pop(f"{old}mlp.fc1.{end}")
            state[f"{new}mlp.fc2.{end}"] = given.pop(f"{old}mlp.fc2.{end}")
    assert all(name.startswith(text) for name in given)
    counted = {f"{text}bert.embeddings.position_ids": torch.arange(64)[None]}
    return {name: value.clone() for name, value in (state | given | counted).items()}


def write_salesforce(file: Path, seed: int = 0) -> Any:
    """Write the file and the words beside it.

    Returns:
        The network that is in it.
    """
    network = tiny_blip(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file(salesforce_state(network), file)
    else:
        torch.save({"model": salesforce_state(network), "optimizer": {}, "epoch": 3}, file)
    (file.parent / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return network


def tiny_clip(seed: int = 0) -> Any:
    """As OpenAI's in what no parameter tells."""
    configuration = CLIPConfig(
        text_config={**SMALL, "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407},
        vision_config={**SMALL, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = CLIPModel(configuration).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "embedding" not in name:
                parameter.mul_(4)
    return network


def openai_state(network: Any) -> dict[str, Tensor]:
    """The parameters as in `ViT-L-14.pt`."""
    given = network.state_dict()
    state = {
        "visual.class_embedding": given["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": given["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": given["vision_model.embeddings.patch_embedding.weight"],
        "visual.proj": given["visual_projection.weight"].T,
        "text_projection": given["text_projection.weight"].T,
        "token_embedding.weight": given["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": given["text_model.embeddings.position_embedding.weight"],
        "logit_scale": given["logit_scale"],
    }
    for end in ("weight", "bias"):
        state[f"visual.ln_pre.{end}"] = given[f"vision_model.pre_layrnorm.{end}"]
        state[f"visual.ln_post.{end}"] = given[f"vision_model.post_layernorm.{end}"]
        state[f"ln_final.{end}"] = given[f"text_model.final_layer_norm.{end}"]
        for tower, before in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
            for layer in range(len(network.get_submodule(tower).encoder.layers)):
                old, new = f"{tower}.encoder.layers.{layer}.", f"{before}.resblocks.{layer}."
                state[f"{new}ln_1.{end}"] = given[f"{old}layer_norm1.{end}"]
                state[f"{new}ln_2.{end}"] = given[f"{old}layer_norm2.{end}"]
                state[f"{new}mlp.c_fc.{end}"] = given[f"{old}mlp.fc1.{end}"]
                state[f"{new}mlp.c_proj.{end}"] = given[f"{old}mlp.fc2.{end}"]
                state[f"{new}attn.out_proj.{end}"] = given[f"{old}self_attn.out_proj.{end}"]
                parts = [given[f"{old}self_attn.{part}_proj.{end}"] for part in "qkv"]
                state[f"{new}attn.in_proj_{end}"] = torch.cat(parts)
    return {name: value.clone().contiguous() for name, value in state.items()}


class _Part(nn.Module):
    """A module that holds parameters by name; a program of its own makes the archive hold code."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def write_script_archive(file: Path, state: Mapping[str, Tensor]) -> None:
    """The tensors in a TorchScript archive, as OpenAI's files are."""
    root = _Part()
    for name, value in state.items():
        *parts, last = name.split(".")
        module: nn.Module = root
        for part in parts:
            if part not in dict(module.named_children()):
                module.add_module(part, _Part())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(value, requires_grad=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(root, torch.zeros(1)), str(file))


def write_openai(file: Path, seed: int = 0) -> Any:
    """Write CLIP's file: a TorchScript archive, or .safetensors.

    Returns:
        The network that is in it.
    """
    network = tiny_clip(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file(openai_state(network), file)
    else:
        write_script_archive(file, openai_state(network))
    return network
