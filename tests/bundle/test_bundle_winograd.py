"""Winograd's convolutions against plain ones in float64."""

import pytest
import torch
from bundle_calls import random
from torch import Tensor, nn

from sdserver.bundle import winograd
from sdserver.bundle.winograd import Winograd, filtered, transform, transformed

PLENTY = 1 << 30


def layer(channels: int, out: int, *, bias: bool = True, stride: int = 1) -> nn.Conv2d:
    made = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=bias).requires_grad_(False)
    made.weight.copy_(random(out, channels, 3, 3) / channels)
    return made.to(memory_format=torch.channels_last)


def exact(conv: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return torch.conv2d(x.double(), conv.weight.double(), bias, conv.stride, 1)


@pytest.mark.parametrize("side", [2, 4])
def test_a_tile_is_what_nine_multiplications_make(side: int) -> None:
    by = transform(side)
    window, kernel = random(by.window, by.window, seed=1), random(3, 3, seed=2)
    products = (by.kernel @ kernel.double().flatten()) * (by.tile.double() @ window.double().flatten())
    expected = torch.conv2d(window.double()[None, None], kernel.double()[None, None])[0, 0]
    torch.testing.assert_close((by.result.double() @ products).view(side, side), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 5), (4, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_planes_of_all_sizes(side: int, size: tuple[int, int], bias: bool) -> None:
    conv, by = layer(5, 7, bias=bias), transform(side)
    x = random(3, 5, *size).to(memory_format=torch.channels_last)
    got = filtered(x, transformed(conv.weight, by), conv.bias, by)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.double(), exact(conv, x), rtol=0, atol=1e-5)


def test_lines_in_turn_make_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, by = layer(6, 3), transform(4)
    x = random(3, 6, 20, 12).to(memory_format=torch.channels_last)
    kernels = transformed(conv.weight, by)
    whole = filtered(x, kernels, conv.bias, by)
    monkeypatch.setattr(winograd, "LEAST_TILES", 1)
    for lines in (1, 2, 5, 7):
        monkeypatch.setattr(winograd, "CHUNK_BYTES", lines * 36 * 3 * 6 * 4)
        torch.testing.assert_close(filtered(x, kernels, conv.bias, by), whole, rtol=0, atol=1e-5)


def test_pieces_make_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = layer(6, 3)
    x = random(3, 6, 20, 12).to(memory_format=torch.channels_last)
    for side in (2, 4):
        by = transform(side)
        kernels, found = transformed(conv.weight, by), []
        for size in (1, 4096, 1 << 20):
            monkeypatch.setattr(winograd, "PIECE_BYTES", size)
            found.append(filtered(x, kernels, conv.bias, by))
        for one in found:
            torch.testing.assert_close(one.double(), exact(conv, x), rtol=0, atol=1e-5)


def test_it_rounds_no_worse_than_a_plain_convolution_does() -> None:
    """Within twice the plain one's error, over as many channels as Stable Diffusion has."""
    for channels, side, size in ((640, 4, 16), (1280, 2, 16)):
        conv, by = layer(channels, 64), transform(side)
        x = random(1, channels, size, size).to(memory_format=torch.channels_last)
        expected = exact(conv, x)
        plain = (conv(x) - expected).square().mean().sqrt()
        got = (filtered(x, transformed(conv.weight, by), conv.bias, by) - expected).square().mean().sqrt()
        scale = expected.square().mean().sqrt()
        assert got < max(2 * plain, 3e-6 * scale), (channels, got, plain)


def test_which_layers_are_taken() -> None:
    narrow, wide, halving = layer(8, 16), layer(16, 16), layer(16, 16, stride=2)
    half = layer(16, 16).bfloat16()
    chosen = Winograd([narrow, wide, halving, half], PLENTY, least_channels=16)
    assert [chosen.takes(one) for one in (narrow, wide, halving, half)] == [False, True, False, False]
    assert not Winograd([wide], max_bytes=36 * 16 * 16 * 4 - 1, least_channels=16).takes(wide)
    assert Winograd([wide], max_bytes=36 * 16 * 16 * 4, least_channels=16).takes(wide)


def test_weights_of_adapters_are_not_taken_for_the_layers_own() -> None:
    conv = layer(16, 16)
    chosen, own = Winograd([conv], PLENTY, least_channels=1), conv._parameters["weight"]
    conv._parameters["weight"] = nn.Parameter(random(16, 16, 3, 3), requires_grad=False)
    assert not chosen.takes(conv)
    conv._parameters["weight"] = own
    x = random(1, 16, 8, 8).to(memory_format=torch.channels_last)
    for _ in range(2):
        assert chosen.takes(conv)
        torch.testing.assert_close(chosen(conv, x).double(), exact(conv, x), rtol=0, atol=1e-5)
        chosen.clear()
