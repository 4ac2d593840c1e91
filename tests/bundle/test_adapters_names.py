"""Names of layers and tensors in adapter files."""

import re

import pytest
from tiny_checkpoints import full_size, open_clip, unet_tensors
from torch import nn

from sdserver.bundle.adapters.keys import split_key
from sdserver.bundle.adapters.names import Layers, find_layers
from sdserver.bundle.spec import TextKind
from sdserver.jobs.model import Family

KINDS: dict[Family, tuple[TextKind, ...]] = {
    "sd1": ("clip",),
    "sd2": ("open_clip",),
    "sdxl": ("clip", "open_clip"),
}
KNOWN = {
    "sd1": {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": (10240, 1280),
        "lora_unet_down_blocks_1_resnets_0_conv_shortcut": (640, 320, 1, 1),
        "lora_unet_up_blocks_1_upsamplers_0_conv": (1280, 1280, 3, 3),
        "lora_unet_output_blocks_5_2_conv": (1280, 1280, 3, 3),
        "lora_unet_input_blocks_3_0_op": (320, 320, 3, 3),
        "diffusion_model_input_blocks_1_1_proj_in": (320, 320, 1, 1),
        "oft_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (320, 768),
        "lora_te_text_model_encoder_layers_11_mlp_fc2": (768, 3072),
        "lora_te1_text_model_final_layer_norm": (768,),
        "transformer_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    },
    "sd2": {
        "lora_unet_up_blocks_3_attentions_2_proj_out": (320, 320),
        "lora_te_text_model_encoder_layers_22_self_attn_v_proj": (1024, 1024),
        "lora_te_text_model_encoder_layers_22_mlp_fc1": (4096, 1024),
        "model_transformer_resblocks_3_mlp_c_fc": (4096, 1024),
        "model_transformer_resblocks_3_ln_2": (1024,),
    },
    "sdxl": {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (640, 2048),
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2": (1280, 5120),
        "lora_unet_output_blocks_2_2_conv": (1280, 1280, 3, 3),
        "lora_unet_label_emb_0_0": (1280, 2816),
        "lora_unet_down_blocks_2_attentions_1_transformer_blocks_9_attn1_to_out_0": (1280, 1280),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
        "lora_te2_text_model_encoder_layers_31_mlp_fc2": (1280, 5120),
        "0_transformer_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
        "1_model_transformer_resblocks_31_attn_out_proj": (1280, 1280),
    },
}
UNKNOWN = {
    "sd1": [
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_te_text_model_final_layer_norm",
        "lora_unet_",
    ],
    "sd2": [
        "lora_te_text_model_encoder_layers_0_layer_norm1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    ],
    "sdxl": ["lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_projection"],
}


@pytest.fixture(scope="module")
def tables() -> dict[str, Layers]:
    def table(family: Family) -> Layers:
        original = full_size(family)
        unet = original.unet
        if family == "sdxl":  # as the loader builds it: the whole vector enters as a class embedding
            unet.class_embedding = unet.add_embedding
            unet.add_embedding = None
        return find_layers(unet, list(zip(KINDS[family], original.text, strict=True)), family)

    return {family: table(family) for family in KINDS}


def shape(module: nn.Module) -> tuple[int, ...]:
    return tuple(module.get_parameter("weight").shape)


@pytest.mark.parametrize("family", KINDS)
def test_names_of_published_files_are_found(tables: dict[str, Layers], family: Family):
    for name, expected in KNOWN[family].items():
        assert shape(tables[family][name].module) == expected, name
    for name in UNKNOWN[family]:
        assert name not in tables[family], name


@pytest.mark.parametrize("family", KINDS)
def test_every_layer_of_the_original_unet_is_found_and_is_the_one_that_diffusers_names(
    tables: dict[str, Layers], family: Family
):
    state = full_size(family).unet.state_dict()
    rows = 2
    originals = unet_tensors(state, rows)
    given = {id(value): name for name, value in state.items()}
    for name, value in originals.items():
        if name.endswith(".weight"):
            layer = tables[family]["lora_unet_" + name.removesuffix(".weight").replace(".", "_")]
            diffusers = given[id(value)].removesuffix(".weight").replace(".", "_")
            assert tables[family]["lora_unet_" + diffusers] is layer
            assert tables[family]["unet_" + diffusers] is layer
            assert shape(layer.module) == tuple(value.shape)
            assert not layer.is_text


@pytest.mark.parametrize(("family", "index", "number"), [("sd2", 0, ""), ("sdxl", 1, "1_")])
def test_every_layer_of_open_clip_is_found_by_its_original_name(
    tables: dict[str, Layers], family: Family, index: int, number: str
):
    tensors = open_clip(full_size(family).text[index].state_dict())
    layers = [name for name in tensors if re.match(r"transformer.*\.weight$", name)]
    assert layers
    for name in layers:
        found = tables[family][f"{number}model_" + name.removesuffix(".weight").replace(".", "_")]
        assert found.is_text
        assert shape(found.module) == tuple(tensors[name].shape)


def test_text_strength_holds_where_the_name_says_transformer_early(tables: dict[str, Layers]):
    sd1, sd2 = tables["sd1"], tables["sd2"]
    assert sd1["lora_te_text_model_encoder_layers_0_mlp_fc1"].is_text
    assert not sd1["lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"].is_text
    assert not sd2["model_ln_final"].is_text  # as AUTOMATIC1111 has it


PLACE = "unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
DOTTED = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"{PLACE}.lora_down.weight", "lora_down.weight"),
        (f"{PLACE}.lora_A.weight", "lora_down.weight"),
        (f"{PLACE}.dora_scale", "dora_scale"),
        (f"{DOTTED}.to_out.0.lora_B.weight", "lora_up.weight"),
        (f"{DOTTED}.to_out.0.lora_A.default.weight", "lora_down.weight"),
        (f"{DOTTED}.to_out.0.lora.up.weight", "lora_up.weight"),
        (f"{DOTTED}.to_out.0.alpha", "alpha"),
        (f"{DOTTED}.processor.to_out_lora.down.weight", "lora_down.weight"),
    ],
)
def test_a_name_is_split_into_layer_and_part(name: str, part: str):
    assert split_key(name, {PLACE}) == (PLACE, part)


def test_a_name_of_no_known_layer_is_none():
    assert split_key("lora_unet_elsewhere.lora_down.weight", {PLACE}) is None
    assert split_key(f"{DOTTED}.to_out.0.weight", {PLACE}) is None  # a whole checkpoint is no adapter
    assert split_key("plain", {PLACE}) is None
