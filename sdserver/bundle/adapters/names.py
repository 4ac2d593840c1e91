"""Layers by the names that adapter files use for them.

A file's name of a layer is compared with dots as underscores. Files name layers as kohya's trainers do
(`lora_unet_`, `lora_te_`, ... before diffusers', transformers' or the original names), as diffusers and
PEFT do (`unet.`, `text_encoder.`), or by the original names alone.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from sdserver.bundle.spec import TextKind
from sdserver.jobs.model import Family

_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm)

_UNET_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_UNET_PLACE = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_TEXT_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_KEY_START = 20


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A layer that adapters can change.

    Attributes:
        key: AUTOMATIC1111's name for it.
        fused: common to the projections of an attention that OpenCLIP keeps in one tensor, else empty:
            AUTOMATIC1111 changes such an attention only as a whole.
    """

    module: nn.Module
    key: str
    fused: str = ""

    @property
    def is_text(self) -> bool:
        """Whether a text encoder's strength holds for it, by the rule of AUTOMATIC1111: its name."""
        return "transformer" in self.key[:_KEY_START]


Layers = Mapping[str, Layer]


def find_layers(unet: nn.Module, text: Sequence[tuple[TextKind, nn.Module]], family: Family) -> Layers:
    """All names that files may use for layers.

    Args:
        unet: diffusers' UNet2DConditionModel.
        text: transformers' text encoders in the order of the checkpoint.
        family: which decides what the text encoders' layers are called.
    """
    found = dict(_unet_names(unet))
    for index, (kind, encoder) in enumerate(text):
        found |= dict(_text_names(encoder, kind, family, index))
    return found


def _unet_names(unet: nn.Module) -> Iterator[tuple[str, Layer]]:
    paths = [name for name, module in unet.named_modules() if isinstance(module, _ADAPTABLE)]
    rows = len({path.split(".")[3] for path in paths if path.startswith("down_blocks.0.resnets.")})
    attending = {int(path.split(".")[1]) for path in paths if re.match(r"up_blocks\.\d+\.attentions", path)}
    for path in paths:
        original = _original_unet_name(path, rows, attending)
        layer = Layer(unet.get_submodule(path), f"diffusion_model_{_flat(original)}")
        given = _flat(path.replace("class_embedding", "add_embedding"))
        prefixes = ("lora_unet_", "oft_unet_", "unet_", "base_model_model_")
        yield from ((prefix + given, layer) for prefix in prefixes)
        prefixes = ("lora_unet_", "oft_unet_", "diffusion_model_", "model_diffusion_model_")
        yield from ((prefix + _flat(original), layer) for prefix in prefixes)


def _original_unet_name(path: str, rows: int, attending: Iterable[int]) -> str:
    """The name in the original UNet of the layer at a path in diffusers'. `rows`: residual blocks per level
    on the way down; `attending`: levels on the way up that have attention, as diffusers counts them.
    """
    if match := _UNET_PLACE.fullmatch(path):
        way, level, kind, row, inner = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (rows + 1)}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{level * (rows + 1) + rows}.{2 if level in attending else 1}.conv"
        block = (1 if way == "down" else 0) + level * (rows + 1) + row
        place = f"{'input' if way == 'down' else 'output'}_blocks.{block}"
        return f"{place}.0.{_RESNET.get(inner, inner)}" if kind == "resnets" else f"{place}.1.{inner}"
    if path in _UNET_SINGLE:
        return _UNET_SINGLE[path]
    block_path, inner = ".".join(path.split(".")[:3]), ".".join(path.split(".")[3:])
    place = _UNET_SINGLE.get(block_path, block_path)
    return f"{place}.{_RESNET.get(inner, inner)}"


def _text_names(
    encoder: nn.Module, kind: TextKind, family: Family, index: int
) -> Iterator[tuple[str, Layer]]:
    """AUTOMATIC1111 finds fewer names of OpenCLIP's layers than there are; so does this."""
    number = f"{index}_" if family == "sdxl" else ""
    library = "text_encoder" if index == 0 else f"text_encoder_{index + 1}"
    for path, module in encoder.named_modules():
        name = path.removeprefix("text_model.")
        if not isinstance(module, _ADAPTABLE) or name == "text_projection":
            continue
        if kind == "clip":
            layer = Layer(module, f"{number}transformer_text_model_{_flat(name)}")
            kohya = ["lora_te1_text_model_"]
            if family == "sd1" and _TEXT_LAYER.fullmatch(name):
                kohya.append("lora_te_text_model_")
        else:
            layer = _open_clip_layer(module, name, number)
            projects = bool(_TEXT_LAYER.fullmatch(name)) and "norm" not in name
            kohya = ["lora_te2_text_model_" if number else "lora_te_text_model_"] if projects else []
            if number == "0_":
                kohya = []
        prefixes = (*kohya, f"{library}_text_model_", f"{library}_")
        yield layer.key, layer
        yield from ((prefix + _flat(name), layer) for prefix in prefixes)


def _open_clip_layer(module: nn.Module, name: str, number: str) -> Layer:
    match = _TEXT_LAYER.fullmatch(name)
    if not match:
        return Layer(module, f"{number}model_{_flat(name.replace('final_layer_norm', 'ln_final'))}")
    place = f"{number}model_transformer_resblocks_{match[1]}"
    fused = f"{place}_attn" if match[2].startswith("self_attn.") else ""
    return Layer(module, f"{place}_{_flat(_OPEN_CLIP_LAYER.get(match[2], match[2]))}", fused)


def _flat(path: str) -> str:
    return path.replace(".", "_")
