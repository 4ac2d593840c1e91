"""Convolutions of 3x3 by Winograd's minimal filtering: Lavin & Gray (2015), "Fast Algorithms for
Convolutional Neural Networks".

Planes are cut into overlapping tiles; tiles and kernels are transformed, and one product of matrices for each
place of a tile does the rest, with 4 multiplications for a pixel and channel (tiles of 2x2 pixels) or 2.25
(4x4) instead of 9. All of it is float32. Kernels are transformed once, in float64, and kept.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final
from weakref import ref

import torch
from torch import Tensor, nn

KERNEL: Final = 3
TAPS: Final = KERNEL * KERNEL
LEAST_CHANNELS: Final = 256
"""In and out, below which transforming takes longer than it saves."""

SMALL_KERNELS: Final = 640 * 1920
"""Channels in times out up to which kernels are made for tiles of 4x4, which take four times the memory."""

CHUNK_BYTES: Final = 12 * 2**20
"""Of transformed tiles; lines of tiles are convolved in turn so that they fit."""

PIECE_BYTES: Final = 2**19
"""Of tiles that are transformed at once, so that they stay in the processor's cache meanwhile."""

LEAST_TILES: Final = 128
"""That are convolved at once all the same, for each time the kernels are read."""

OUT_CHUNK: Final = 64
"""Kernels that are transformed at a time."""

_POINTS: Final = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}
"""Where polynomials are evaluated, by the tile's side. These round less than the usual 0, 1, -1, 2, -2."""


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """Matrices of a two-dimensional filtering, applied to what is flattened.

    Attributes:
        side: of the tile in pixels of the result; `window` is that of what it is computed from.
        kernel: (window ** 2, 9), float64.
        tile: (window ** 2, window ** 2), float32.
        result: (side ** 2, window ** 2), float32.
    """

    side: int
    window: int
    kernel: Tensor
    tile: Tensor
    result: Tensor


def transform(side: int) -> Transform:
    """Toom and Cook's algorithm at the points of `_POINTS` and at infinity, rows scaled by powers of two."""
    points, window = _POINTS[side], side + KERNEL - 1
    tile, kernel = [], []
    for index, point in enumerate(points):
        others = [*points[:index], *points[index + 1 :]]
        row = [*_product(others), Fraction(0)]
        scale = _power_of_two(row)
        tile.append([value / scale for value in row])
        divisor = math.prod((point - other for other in others), start=Fraction(1))
        kernel.append([point**power * scale / divisor for power in range(KERNEL)])
    tile.append(_product(points))
    kernel.append([Fraction(0)] * (KERNEL - 1) + [Fraction(1)])
    result = [[point**power for point in points] + [Fraction(power == side - 1)] for power in range(side)]
    kernel_2d, tile_2d, result_2d = (_in_two_dimensions(matrix) for matrix in (kernel, tile, result))
    return Transform(side, window, kernel_2d, tile_2d.float(), result_2d.float())


def _product(points: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of the polynomial with these zeros, the constant first."""
    found = [Fraction(1)]
    for point in points:
        shifted, scaled = [Fraction(0), *found], [*(value * point for value in found), Fraction(0)]
        found = [one - other for one, other in zip(shifted, scaled, strict=True)]
    return found


def _power_of_two(row: Sequence[Fraction]) -> Fraction:
    return Fraction(2) ** round(math.log2(sum(abs(value) for value in row)))


def _in_two_dimensions(matrix: Sequence[Sequence[Fraction]]) -> Tensor:
    one = torch.tensor([[float(value) for value in row] for row in matrix], dtype=torch.float64, device="cpu")
    return torch.kron(one, one)


class Winograd:
    """A network's convolutions that are worth it. Parameters that adapters put in the place of the network's
    own are left to others.

    Args:
        convolutions: all of the network's.
        max_bytes: memory for transformed kernels. Where those of all layers do not fit, there are none.
        least_channels: see `LEAST_CHANNELS`.
    """

    def __init__(
        self, convolutions: Sequence[nn.Conv2d], max_bytes: int, least_channels: int = LEAST_CHANNELS
    ) -> None:
        fit = [one for one in convolutions if _fits(one, least_channels)]
        needed = sum(_window(one) ** 2 * one.in_channels * one.out_channels * 4 for one in fit)
        self._own = {id(one): ref(one._parameters["weight"]) for one in fit} if needed <= max_bytes else {}
        self._kernels: dict[int, Tensor] = {}
        self._transforms = {side: transform(side) for side in _POINTS}

    def takes(self, module: Any) -> bool:
        """Whether a layer runs so, with the weights that it has now."""
        own = self._own.get(id(module))
        return own is not None and own() is module._parameters["weight"]

    def clear(self) -> None:
        """Free the kernels' memory; they are made again."""
        self._kernels.clear()

    def __call__(self, module: Any, x: Tensor) -> Tensor:
        """Convolve (n, channels, h, w), float32 on the CPU, in `channels_last` order; so is the result."""
        found = self._transforms[_side(module)]
        kernels = self._kernels.get(id(module))
        if kernels is None:
            kernels = self._kernels[id(module)] = transformed(module._parameters["weight"], found)
        return filtered(x, kernels, module._parameters["bias"], found)


def transformed(weight: Tensor, by: Transform) -> Tensor:
    """Kernels (out, in, 3, 3) as (window ** 2, in, out)."""
    out, channels = weight.shape[:2]
    flat = weight.detach().permute(0, 2, 3, 1).reshape(out, TAPS, channels)
    kernels = torch.empty(by.window**2, channels, out)
    for start in range(0, out, OUT_CHUNK):
        found = by.kernel @ flat[start : start + OUT_CHUNK].double()
        kernels[:, :, start : start + OUT_CHUNK] = found.permute(1, 2, 0)
    return kernels


def filtered(x: Tensor, kernels: Tensor, bias: Tensor | None, by: Transform) -> Tensor:
    """Convolve with transformed kernels, a border of one zero around."""
    rows, channels, height, width = x.shape
    down, across = -(-height // by.side), -(-width // by.side)
    result = x.new_empty(rows, down, by.side, across, by.side, kernels.shape[2])
    line = by.window**2 * across * channels * x.element_size()
    most = max(CHUNK_BYTES // line, -(-LEAST_TILES // across))
    row_chunk, line_chunk = max(1, min(most // down, rows)), -(-down // -(-down // most))
    widest = by.window**2 * row_chunk * line_chunk * across * max(kernels.shape[1:])
    work = x.new_empty(widest), x.new_empty(widest)
    framed = x.new_zeros(row_chunk, line_chunk * by.side + 2, across * by.side + 2, channels)
    lines = x.permute(0, 2, 3, 1)
    for row in range(0, rows, row_chunk):
        for start in range(0, down, line_chunk):
            area = slice(row, row + row_chunk), slice(start, start + line_chunk)
            found = result[area]
            some = framed[: found.shape[0], : found.shape[1] * by.side + 2]
            _frame(lines[area[0]], start * by.side - 1, some)
            _filter(_windows(some, by, found.shape[1], across), kernels, bias, by, work, found)
    planes = result.view(rows, down * by.side, across * by.side, -1)
    if planes.shape[1:3] != (height, width):
        planes = planes[:, :height, :width].contiguous()
    return planes.permute(0, 3, 1, 2)


def _frame(lines: Tensor, first: int, framed: Tensor) -> None:
    """Put lines (n, height, width, channels), from the one numbered `first` on, between borders of zeros.

    What is to the left and to the right of them is zero already.
    """
    _, height, width, _ = lines.shape
    start, stop = max(0, -first), min(framed.shape[1], height - first)
    framed[:, :start].zero_()
    framed[:, stop:].zero_()
    framed[:, start:stop, 1 : width + 1].copy_(lines[:, first + start : first + stop])


def _windows(framed: Tensor, by: Transform, down: int, across: int) -> Tensor:
    """What each tile is computed from: (window, window, n, down, across, channels), a view."""
    row, line, pixel, _ = framed.stride()
    sizes = (by.window, by.window, len(framed), down, across, framed.shape[3])
    return framed.as_strided(sizes, (line, pixel, row, line * by.side, pixel * by.side, 1))


def _filter(
    windows: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    by: Transform,
    work: tuple[Tensor, Tensor],
    result: Tensor,
) -> None:
    """Fill the result, (n, down, side, across, side, out); each step goes from one tensor of `work` to the
    other.
    """
    _, _, rows, down, across, channels = windows.shape
    places, tiles, out = by.window**2, rows * down * across, kernels.shape[2]
    one, other = work
    changed = other[: places * tiles * channels].view(places, -1)
    for row, lines, columns in _pieces(rows, down, across * channels, places):
        piece = windows[:, :, row, lines]
        gathered = one[: piece.numel()]
        gathered.view(piece.shape).copy_(piece)
        torch.mm(by.tile, gathered.view(places, -1), out=changed[:, columns])
    products = one[: places * tiles * out].view(places, tiles, out)
    torch.bmm(changed.view(places, tiles, channels), kernels, out=products)
    flat = products.view(places, -1)
    for row, lines, columns in _pieces(rows, down, across * out, by.side**2):
        found = result[row, lines]
        pixels = other[: found.numel()].view(by.side**2, -1)
        torch.mm(by.result, flat[:, columns], out=pixels)
        planes = pixels.view(by.side, by.side, -1, across, out).permute(2, 0, 3, 1, 4)
        if bias is None:
            found.copy_(planes)
        else:
            torch.add(planes, bias, out=found)


def _pieces(rows: int, down: int, width: int, places: int) -> Iterator[tuple[int, slice, slice]]:
    """Rows and some of their lines of tiles, of `PIECE_BYTES` in all places, and where they lie among all."""
    count = max(1, PIECE_BYTES // (places * width * torch.float32.itemsize))
    for row in range(rows):
        for start in range(0, down, count):
            stop = min(start + count, down)
            yield row, slice(start, stop), slice((row * down + start) * width, (row * down + stop) * width)


def _side(module: Any) -> int:
    return 4 if module.in_channels * module.out_channels <= SMALL_KERNELS else 2


def _window(module: Any) -> int:
    return _side(module) + KERNEL - 1


def _fits(module: nn.Conv2d, least_channels: int) -> bool:
    return (
        module.kernel_size == (KERNEL, KERNEL)
        and module.stride == (1, 1)
        and module.padding == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and min(module.in_channels, module.out_channels) >= least_channels
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    )
