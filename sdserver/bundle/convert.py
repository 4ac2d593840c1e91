"""Names of tensors: from the original single-file layout to diffusers' and transformers' modules.

Each function returns, for every tensor of the module to be built, where the file has it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sdserver.bundle.dims import UNET, VAE
from sdserver.bundle.spec import TextSpec, UNetSpec, VaeSpec

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_KINDS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor in the file, or a part of it.

    Attributes:
        name: in the file.
        part: of three equal parts along the first axis, or None for the whole.
        transposed: whether the file has it transposed.
    """

    name: str
    part: int | None = None
    transposed: bool = False


Sources = Mapping[str, Source]


def unet_sources(spec: UNetSpec, names: frozenset[str]) -> Sources:
    """For `UNet2DConditionModel`. `names`: all of the file's."""
    renamed = _Renaming(UNET, names)
    renamed.pairs(("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2"))
    if spec.vector_dim is not None:
        renamed.pairs(
            ("label_emb.0.0", "class_embedding.linear_1"), ("label_emb.0.2", "class_embedding.linear_2")
        )
    renamed.pairs(("input_blocks.0.0", "conv_in"), ("out.0", "conv_norm_out"), ("out.2", "conv_out"))
    renamed.table("middle_block.0", "mid_block.resnets.0", _RESNET)
    renamed.tree("middle_block.1", "mid_block.attentions.0")
    renamed.table("middle_block.2", "mid_block.resnets.1", _RESNET)
    levels, rows = len(spec.widths), spec.res_blocks
    for level in range(levels):
        for row in range(rows):
            block, place = f"input_blocks.{1 + level * (rows + 1) + row}", f"down_blocks.{level}"
            renamed.table(f"{block}.0", f"{place}.resnets.{row}", _RESNET)
            if spec.down_depths[level][row]:
                renamed.tree(f"{block}.1", f"{place}.attentions.{row}")
        if level < levels - 1:
            block = f"input_blocks.{(level + 1) * (rows + 1)}"
            renamed.pairs((f"{block}.0.op", f"down_blocks.{level}.downsamplers.0.conv"))
        _up_level(renamed, spec, level)
    return renamed.sources


def _up_level(renamed: "_Renaming", spec: UNetSpec, level: int) -> None:
    """The way up counts from the innermost level; a level but the last ends in an up-sampling."""
    rows = spec.res_blocks + 1
    step = len(spec.widths) - 1 - level
    depths = spec.up_depths[level]
    for row in range(rows):
        block, place = f"output_blocks.{step * rows + row}", f"up_blocks.{step}"
        renamed.table(f"{block}.0", f"{place}.resnets.{row}", _RESNET)
        if depths[row]:
            renamed.tree(f"{block}.1", f"{place}.attentions.{row}")
    if level:
        sampler = f"output_blocks.{step * rows + rows - 1}.{2 if depths[-1] else 1}.conv"
        renamed.pairs((sampler, f"up_blocks.{step}.upsamplers.0.conv"))


def vae_sources(spec: VaeSpec, names: frozenset[str]) -> Sources:
    """For `AutoencoderKL`."""
    renamed = _Renaming(VAE, names)
    renamed.pairs(("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv"))
    levels = len(spec.widths)
    for half in ("encoder", "decoder"):
        for part, target in (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")):
            renamed.pairs((f"{half}.{part}", f"{half}.{target}"))
        renamed.table(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0", _VAE_RESNET)
        renamed.table(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", _VAE_ATTENTION)
        renamed.table(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1", _VAE_RESNET)
    for level in range(levels):
        upward = levels - 1 - level
        for row in range(spec.res_blocks):
            target = f"encoder.down_blocks.{level}.resnets.{row}"
            renamed.table(f"encoder.down.{level}.block.{row}", target, _VAE_RESNET)
        for row in range(spec.res_blocks + 1):
            target = f"decoder.up_blocks.{upward}.resnets.{row}"
            renamed.table(f"decoder.up.{level}.block.{row}", target, _VAE_RESNET)
        if level < levels - 1:
            target = f"encoder.down_blocks.{level}.downsamplers.0.conv"
            renamed.pairs((f"encoder.down.{level}.downsample.conv", target))
        if level:
            target = f"decoder.up_blocks.{upward}.upsamplers.0.conv"
            renamed.pairs((f"decoder.up.{level}.upsample.conv", target))
    return renamed.sources


def text_sources(spec: TextSpec, names: frozenset[str]) -> Sources:
    """For `CLIPTextModel`, or with a projection for `CLIPTextModelWithProjection`."""
    renamed = _Renaming(spec.prefix, names)
    if spec.kind == "clip":
        for place in ("embeddings", "encoder.layers", "final_layer_norm"):
            renamed.tree(place, place)
        renamed.sources.pop("embeddings.position_ids", None)
        return renamed.sources
    renamed.pairs(("token_embedding", "embeddings.token_embedding"), ("ln_final", "final_layer_norm"))
    renamed.one("positional_embedding", "embeddings.position_embedding.weight")
    for layer in range(spec.layers):
        source, target = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        renamed.table(source, target, _OPEN_CLIP_LAYER)
        for suffix in _KINDS:
            for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
                renamed.one(f"{source}.attn.in_proj_{suffix}", f"{target}.self_attn.{name}.{suffix}", part)
    if spec.projection is None:
        return renamed.sources
    projected = {f"text_model.{name}": source for name, source in renamed.sources.items()}
    return projected | {"text_projection.weight": Source(f"{spec.prefix}text_projection", transposed=True)}


class _Renaming:
    """Collects sources; only tensors that the file has are taken up."""

    def __init__(self, prefix: str, names: frozenset[str]) -> None:
        self._prefix = prefix
        self._names = names
        self.sources: dict[str, Source] = {}

    def one(self, source: str, target: str, part: int | None = None) -> None:
        if self._prefix + source in self._names:
            self.sources[target] = Source(self._prefix + source, part)

    def pairs(self, *pairs: tuple[str, str]) -> None:
        """Weight and bias of single layers."""
        for source, target in pairs:
            for suffix in _KINDS:
                self.one(f"{source}.{suffix}", f"{target}.{suffix}")

    def table(self, source: str, target: str, layers: Mapping[str, str]) -> None:
        """The layers of a block."""
        self.pairs(*((f"{source}.{layer}", f"{target}.{renamed}") for layer, renamed in layers.items()))

    def tree(self, source: str, target: str) -> None:
        """A whole block whose inner names are the same on both sides."""
        for name in self._below(f"{self._prefix}{source}."):
            self.sources[target + name.removeprefix(self._prefix + source)] = Source(name)

    def _below(self, place: str) -> Iterator[str]:
        return (name for name in self._names if name.startswith(place))
