"""Dimensions of UNet, autoencoder and text encoders, read off the shapes of their tensors.

The layout is that of CompVis' latent-diffusion and Stability's generative-models (SDXL), with the
text encoders as Hugging Face's CLIP or as OpenCLIP.
"""

from itertools import count, takewhile
from math import gcd
from typing import Final

from sdserver.bundle.safetensors_file import Shape
from sdserver.bundle.sidecar import Sidecar
from sdserver.bundle.spec import TextKind, TextSpec, UNetSpec, VaeSpec
from sdserver.bundle.weights import Shapes
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.jobs.model import Family

UNET: Final = "model.diffusion_model."
VAE: Final = "first_stage_model."
SDXL_TEXT: Final = "conditioner.embedders."

_SD1_HEADS = 8
_HEAD_CHANNELS = 64
_CLIP_TINY_HEADS = 4

_CLIP_TOKENS = "embeddings.token_embedding.weight"
_OPEN_CLIP_TOKENS = "token_embedding.weight"
# Old SD 1 files lack `text_model.`; SDXL has CLIP-L at 0 and OpenCLIP at 1, its refiner OpenCLIP at 0.
_TEXT_PLACES: tuple[tuple[TextKind, str], ...] = (
    ("clip", "cond_stage_model.transformer.text_model."),
    ("clip", "cond_stage_model.transformer."),
    ("open_clip", "cond_stage_model.model."),
    ("clip", "conditioner.embedders.0.transformer.text_model."),
    ("open_clip", "conditioner.embedders.0.model."),
    ("open_clip", "conditioner.embedders.1.model."),
)


def read_unet(shapes: Shapes, family: Family, sidecar: Sidecar) -> UNetSpec:
    """Dimensions of the UNet. Raises Unreadable- or UnsupportedCheckpoint if they make no UNet."""
    levels = _down_levels(shapes)
    widths = tuple(width for width, _ in levels)
    down_depths = tuple(depths for _, depths in levels)
    res_blocks = len(down_depths[0])
    if any(len(depths) != res_blocks for depths in down_depths):
        raise UnsupportedCheckpoint("Its UNet has levels of different length: such networks are not served.")
    up_depths = _up_depths(shapes, len(levels), res_blocks)
    mid_depth = _depth(shapes, f"{UNET}middle_block.1")
    _check_depths(down_depths, up_depths, mid_depth)
    attending = [width for width, depths in zip(widths, down_depths, strict=True) if depths[0]]
    vector = f"{UNET}label_emb.0.0.weight"
    return UNetSpec(
        in_channels=_shape(shapes, f"{UNET}input_blocks.0.0.weight", 4)[1],
        out_channels=_shape(shapes, f"{UNET}out.2.weight", 4)[0],
        widths=widths,
        res_blocks=res_blocks,
        down_depths=down_depths,
        mid_depth=mid_depth,
        up_depths=up_depths,
        context_dim=_shape(shapes, f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        heads=_heads(widths, min(attending, default=widths[-1]), family, sidecar),
        linear_projection=len(_shape(shapes, f"{UNET}middle_block.1.proj_in.weight")) == 2,
        vector_dim=_shape(shapes, vector, 2)[1] if vector in shapes else None,
    )


def read_vae(shapes: Shapes) -> VaeSpec:
    """Dimensions of the autoencoder."""
    _shape(shapes, f"{VAE}encoder.down.0.block.0.conv1.weight", 4)
    levels = _numbers(shapes, VAE + "encoder.down.{}.block.0.conv1.weight")
    widths = tuple(
        _shape(shapes, f"{VAE}encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in levels
    )
    return VaeSpec(
        widths=widths,
        res_blocks=len(_numbers(shapes, VAE + "encoder.down.0.block.{}.conv1.weight")),
        latent_channels=_shape(shapes, f"{VAE}post_quant_conv.weight", 4)[1],
    )


def read_text(shapes: Shapes) -> tuple[TextSpec, ...]:
    """Dimensions of the text encoders there are, in order."""
    found = [
        (kind, prefix)
        for kind, prefix in _TEXT_PLACES
        if prefix + (_CLIP_TOKENS if kind == "clip" else _OPEN_CLIP_TOKENS) in shapes
    ]
    return tuple(
        _clip(shapes, prefix) if kind == "clip" else _open_clip(shapes, prefix) for kind, prefix in found
    )


def _clip(shapes: Shapes, prefix: str) -> TextSpec:
    vocabulary, width = _shape(shapes, prefix + _CLIP_TOKENS, 2)
    return TextSpec(
        kind="clip",
        prefix=prefix,
        width=width,
        layers=len(_numbers(shapes, prefix + "encoder.layers.{}.mlp.fc1.weight")),
        heads=_text_heads(width),
        intermediate=_shape(shapes, prefix + "encoder.layers.0.mlp.fc1.weight", 2)[0],
        vocabulary=vocabulary,
        positions=_shape(shapes, prefix + "embeddings.position_embedding.weight", 2)[0],
        projection=None,
    )


def _open_clip(shapes: Shapes, prefix: str) -> TextSpec:
    vocabulary, width = _shape(shapes, prefix + _OPEN_CLIP_TOKENS, 2)
    pooled = prefix.startswith(SDXL_TEXT)
    return TextSpec(
        kind="open_clip",
        prefix=prefix,
        width=width,
        layers=len(_numbers(shapes, prefix + "transformer.resblocks.{}.mlp.c_fc.weight")),
        heads=_text_heads(width),
        intermediate=_shape(shapes, prefix + "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        vocabulary=vocabulary,
        positions=_shape(shapes, prefix + "positional_embedding", 2)[0],
        projection=_shape(shapes, prefix + "text_projection", 2)[1] if pooled else None,
    )


def _text_heads(width: int) -> int:
    """CLIP-L, ViT-H and bigG have 64 channels a head; narrower ones are tiny test models of 4 heads."""
    return width // _HEAD_CHANNELS if width >= 8 * _HEAD_CHANNELS else _CLIP_TINY_HEADS


def _heads(widths: tuple[int, ...], narrowest: int, family: Family, sidecar: Sidecar) -> tuple[int, ...]:
    """Heads per level: the sidecar's words, else the family's rule."""
    if sidecar.head_channels is not None:
        return tuple(max(1, width // sidecar.head_channels) for width in widths)
    if sidecar.num_heads is not None:
        return tuple(sidecar.num_heads for _ in widths)
    if family == "sd1":
        return tuple(_SD1_HEADS for _ in widths)
    channels = gcd(_HEAD_CHANNELS, narrowest)
    return tuple(max(1, width // channels) for width in widths)


def _down_levels(shapes: Shapes) -> list[tuple[int, tuple[int, ...]]]:
    """Width and transformer depths of each level; a down-sampling convolution ends one."""
    levels: list[tuple[int, tuple[int, ...]]] = []
    width, depths = 0, list[int]()
    for index in count(1):
        block = f"{UNET}input_blocks.{index}"
        if f"{block}.0.in_layers.2.weight" in shapes:
            width = _shape(shapes, f"{block}.0.in_layers.2.weight", 4)[0]
            depths.append(_depth(shapes, f"{block}.1"))
        elif f"{block}.0.op.weight" in shapes and depths:
            levels.append((width, tuple(depths)))
            depths = []
        else:
            break
    if not depths:
        raise UnreadableCheckpoint("Tensors of its UNet are missing: download it again.")
    return [*levels, (width, tuple(depths))]


def _up_depths(shapes: Shapes, levels: int, res_blocks: int) -> tuple[tuple[int, ...], ...]:
    rows = res_blocks + 1
    depths = [_depth(shapes, f"{UNET}output_blocks.{index}.1") for index in range(levels * rows)]
    innermost_first = [tuple(depths[start : start + rows]) for start in range(0, len(depths), rows)]
    return tuple(reversed(innermost_first))


def _check_depths(down: tuple[tuple[int, ...], ...], up: tuple[tuple[int, ...], ...], mid: int) -> None:
    """Diffusers' UNet attends behind all residual blocks of a level or none, and in the middle."""
    uniform = all((0 in depths) == (not any(depths)) for depths in (*down, *up))
    same_levels = [any(depths) for depths in down] == [any(depths) for depths in up]
    if not uniform or not same_levels or not mid or (any(down[-1]) and down[-1][0] != mid):
        raise UnsupportedCheckpoint("Its UNet attends in other places than SD 1, SD 2 and SDXL do.")


def _depth(shapes: Shapes, place: str) -> int:
    return len(_numbers(shapes, place + ".transformer_blocks.{}.norm1.weight"))


def _numbers(shapes: Shapes, pattern: str) -> range:
    """0, 1, ... as long as the pattern, filled with the number, is a tensor's name."""
    return range(sum(1 for _ in takewhile(lambda index: pattern.format(index) in shapes, count())))


def _shape(shapes: Shapes, name: str, dimensions: int | None = None) -> Shape:
    shape = shapes.get(name)
    if shape is None or (dimensions is not None and len(shape) != dimensions) or 0 in shape:
        problem = "is missing" if shape is None else f"has the odd shape {list(shape)}"
        raise UnreadableCheckpoint(f"The tensor {name} {problem}: download the file again.")
    return shape
