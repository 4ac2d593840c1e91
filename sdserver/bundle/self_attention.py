"""Self-attention that costs less: over merged tokens, and within tiles."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any, Final

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdserver.bundle.tile_draws import Place, Tiled, TileDraws, draw_count, least_side
from sdserver.bundle.token_merging import Matching, left, match
from sdserver.jobs.model import Attention, Family

DRAWS_KEPT: Final = 32
"""Passes whose draws are remembered. Forgotten ones are drawn again."""

Depths = Mapping[str, Mapping[int, int]]

DEPTHS: Final[Depths] = MappingProxyType(
    {
        "input": {1: 0, 2: 0, 4: 1, 5: 1, 7: 2, 8: 2},
        "middle": {0: 3},
        "output": {3: 2, 4: 2, 5: 2, 6: 1, 7: 1, 8: 1, 9: 0, 10: 0, 11: 0},
    }
)
XL_INNER: Final[Depths] = MappingProxyType(
    {"input": {7: 1, 8: 1}, "middle": {0: 2}, "output": {0: 1, 1: 1, 2: 1}}
)
XL_OUTER: Final = MappingProxyType({"input": {4, 5}, "middle": set[int](), "output": {3, 4, 5}})
XL_OUTER_BLOCKS: Final = 2
"""The first has depth 0, the second 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A transformer block of the UNet.

    Attributes:
        level: how often the latent's sides were halved before it.
        depth: Hypertile's, None where A1111 tiles nothing.
    """

    block: Any
    level: int
    depth: int | None


class SelfAttention:
    """The self-attention layers of a UNet.

    Args:
        unet: diffusers' UNet2DConditionModel.
        family: A1111's lists of layers differ.
    """

    def __init__(self, unet: nn.Module, family: Family) -> None:
        self._layers = find_layers(unet, family)
        self._draws: OrderedDict[tuple[Attention, tuple[Place, ...]], TileDraws] = OrderedDict()

    @contextmanager
    def cheapened(self, attention: Attention, evaluation: int, size: tuple[int, int]) -> Iterator[None]:
        """Have the network run so, inside the context.

        Args:
            attention: how.
            evaluation: which one of its pass, counted from 0; tiles are drawn anew for each.
            size: height and width of the latent.
        """
        attention = attention.of_unet()
        hooks: list[RemovableHandle] = []
        try:
            for hooked in self._hooked(attention, evaluation, size):
                hooks += hooked.register()
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hooked(self, attention: Attention, evaluation: int, size: tuple[int, int]) -> list["_Hooked"]:
        if attention == Attention():
            return []
        found = {id(layer): _Hooked(layer.block, size) for layer in self._layers}
        for layer in self._layers:
            if _merges(layer, attention):
                found[id(layer)].ratio = attention.merging
        tiled = [layer for layer in self._layers if _is_tiled(layer, attention)]
        if tiled:
            places = tuple(Place(_tokens(layer, attention, size), layer.depth or 0) for layer in tiled)
            drawn = self._tiles(attention, places).at(evaluation)
            for layer, tiles in zip(tiled, drawn, strict=True):
                found[id(layer)].tiles = tiles
        return list(found.values())

    def _tiles(self, attention: Attention, places: tuple[Place, ...]) -> TileDraws:
        key = replace(attention, merging=0.0), places
        if key not in self._draws:
            assert attention.unet is not None  # noqa: S101 - only then something is tiled
            self._draws[key] = TileDraws(attention.unet, attention, places)
            if len(self._draws) > DRAWS_KEPT:
                self._draws.popitem(last=False)
        self._draws.move_to_end(key)
        return self._draws[key]


@contextmanager
def tiled_decoder(vae: Any, attention: Attention) -> Iterator[None]:
    """Have a VAE's decoder run within tiles, inside the context, if that is asked for.

    All of its attention block is, norm included. A1111 goes on with the draws of the UNet; here every
    picture's are the first ones of the seed.
    """
    rule, hooks = attention.vae, []
    if rule is not None:
        generator = Random(attention.seed)
        least = least_side(rule, attention)
        for block in vae.decoder.mid_block.attentions:
            tiles = _TiledPlane(least, rule.swap, generator)
            hooks += [
                block.register_forward_pre_hook(tiles.split),
                block.register_forward_hook(tiles.join),
            ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def find_layers(unet: Any, family: Family) -> list[Layer]:
    """All transformer blocks in the order in which they run."""
    levels = len(unet.down_blocks)
    per_level = len(unet.down_blocks[0].resnets) + 1
    found: list[Layer] = []
    for level, block in enumerate(unet.down_blocks):
        for place, attention in enumerate(getattr(block, "attentions", ())):
            number = 1 + level * per_level + place
            found += _layers(attention, level, "input", number, family)
    for attention in getattr(unet.mid_block, "attentions", ()):
        found += _layers(attention, levels - 1, "middle", 0, family)
    for turn, block in enumerate(unet.up_blocks):
        for place, attention in enumerate(getattr(block, "attentions", ())):
            number = turn * per_level + place
            found += _layers(attention, levels - 1 - turn, "output", number, family)
    return found


def _layers(attention: Any, level: int, side: str, number: int, family: Family) -> list[Layer]:
    """The transformer blocks of one place."""
    blocks = enumerate(attention.transformer_blocks)
    return [Layer(block, level, _depth(family, side, number, index)) for index, block in blocks]


def _depth(family: Family, side: str, number: int, index: int) -> int | None:
    """A1111's depth of a place's transformer block, by the place's number in the original network. It has one
    list for SD 1 and 2, and one for SDXL, which it takes for the refiner, too.
    """
    if family != "sdxl":
        return DEPTHS[side].get(number) if index == 0 else None
    if number in XL_OUTER[side]:
        return index if index < XL_OUTER_BLOCKS else None
    return XL_INNER[side].get(number)


def _merges(layer: Layer, attention: Attention) -> bool:
    """A1111 merges tokens of the latent's own resolution only: none in SDXL."""
    return attention.merging > 0 and layer.level == 0


def _is_tiled(layer: Layer, attention: Attention) -> bool:
    return attention.unet is not None and layer.depth is not None and layer.depth <= attention.unet.max_depth


def _tokens(layer: Layer, attention: Attention, size: tuple[int, int]) -> int:
    """That the layer's self-attention is given."""
    height, width = (_halved(side, layer.level) for side in size)
    return left(height * width, attention.merging if _merges(layer, attention) else 0.0, height, width)


def _halved(side: int, times: int) -> int:
    for _ in range(times):
        side = (side + 1) // 2
    return side


class _Hooked:
    """One transformer block, while it runs cheaper."""

    def __init__(self, block: Any, size: tuple[int, int]) -> None:
        self.ratio = 0.0
        self.tiles: Tiled | None = None
        self._block = block
        self._size = size
        self._matching: Matching | None = None

    def register(self) -> list[RemovableHandle]:
        hooks: list[RemovableHandle] = []
        if self.ratio > 0:
            hooks.append(self._block.register_forward_pre_hook(self._match))
        if self.ratio > 0 or (self.tiles is not None and not self.tiles.is_whole):
            hooks.append(self._block.attn1.register_forward_pre_hook(self._enter))
            hooks.append(self._block.attn1.register_forward_hook(self._leave))
        return hooks

    def _match(self, _block: nn.Module, given: tuple[Any, ...]) -> None:
        """What is alike is seen before the norm."""
        self._matching = match(given[0], *self._size, self.ratio)

    def _enter(self, _attention: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = given
        if self._matching is not None:
            x = self._matching.merge(x)
        if self.tiles is not None:
            x = split(x, self.tiles)
        return (x, *others)

    def _leave(self, _attention: nn.Module, _given: tuple[Any, ...], result: Tensor) -> Tensor:
        if self.tiles is not None:
            result = join(result, self.tiles)
        return result if self._matching is None else self._matching.unmerge(result)


def split(x: Tensor, tiles: Tiled) -> Tensor:
    """(n, tokens, width) to (n * tiles, tokens of a tile, width)."""
    if tiles.is_whole:
        return x
    rows, _, channels = x.shape
    height, width = tiles.height // tiles.down, tiles.width // tiles.across
    parts = x.reshape(rows, tiles.down, height, tiles.across, width, channels).transpose(2, 3)
    return parts.reshape(-1, height * width, channels)


def join(x: Tensor, tiles: Tiled) -> Tensor:
    """The reverse of `split`."""
    if tiles.is_whole:
        return x
    channels = x.shape[-1]
    height, width = tiles.height // tiles.down, tiles.width // tiles.across
    parts = x.reshape(-1, tiles.down, tiles.across, height, width, channels).transpose(2, 3)
    return parts.reshape(-1, tiles.height * tiles.width, channels)


class _TiledPlane:
    """A block that takes (n, channels, h, w), while it runs on tiles."""

    def __init__(self, least: int, swap: int, generator: Random) -> None:
        self._least = least
        self._swap = swap
        self._generator = generator
        self._down = self._across = 1

    def split(self, _block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = given
        rows, channels, height, width = x.shape
        down = draw_count(height, self._least, self._swap, self._generator)
        across = draw_count(width, self._least, self._swap, self._generator)
        self._down, self._across = down, across
        if down * across == 1:
            return given
        parts = x.reshape(rows, channels, down, height // down, across, width // across)
        parts = parts.permute(0, 2, 4, 1, 3, 5)
        return (parts.reshape(-1, channels, height // down, width // across), *others)

    def join(self, _block: nn.Module, _given: tuple[Any, ...], result: Tensor) -> Tensor:
        if self._down * self._across == 1:
            return result
        _, channels, height, width = result.shape
        parts = result.reshape(-1, self._down, self._across, channels, height, width)
        parts = parts.permute(0, 3, 1, 4, 2, 5)
        return parts.reshape(-1, channels, self._down * height, self._across * width)
