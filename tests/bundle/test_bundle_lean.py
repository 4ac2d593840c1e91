"""The lean forward pass against diffusers' own."""

from typing import Any

import pytest
import torch
from bundle_calls import random
from plain_unets import network
from tiny_checkpoints import TEXT_WIDTH
from torch import Tensor, nn

from sdserver.bundle import lean, lean_layers
from sdserver.bundle.kept_text import Text
from sdserver.bundle.lean import Lean, is_plain
from sdserver.bundle.lean_layers import Convolver
from sdserver.bundle.tiling import Tiling
from sdserver.bundle.winograd import Winograd
from sdserver.jobs.model import Family

NONE = Winograd((), 0)


def both(unet: Any, run: Lean, rows: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The lean pass' result and diffusers'."""
    x = random(rows, unet.config.in_channels, height, width).to(memory_format=torch.channels_last)
    context, timesteps = random(rows, 77, unet.config.cross_attention_dim), torch.linspace(3.5, 990, rows)
    size = unet.config.projection_class_embeddings_input_dim
    vector = None if size is None else random(rows, size, seed=7)
    with torch.no_grad():
        (expected,) = unet(
            x, timesteps, encoder_hidden_states=context, class_labels=vector, return_dict=False
        )
        return run(x, timesteps, Text(list(context)), vector), expected


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 16, 24), (2, 9, 13)])
def test_it_is_the_same_network(family: Family, size: tuple[int, int, int]) -> None:
    unet = network(family)
    got, expected = both(unet, Lean(unet), *size)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_nothing_of_what_it_is_given_is_written_to() -> None:
    unet = network("sd1")
    x = random(2, 4, 8, 8).to(memory_format=torch.channels_last)
    context, timesteps = random(2, 77, TEXT_WIDTH), torch.tensor([1.0, 2.0])
    before = [one.clone() for one in (x, context, timesteps)]
    with torch.no_grad():
        first = Lean(unet)(x, timesteps, Text(list(context)), None)
        again = Lean(unet)(x, timesteps, Text(list(context)), None)
    assert all(torch.equal(*pair) for pair in zip((x, context, timesteps), before, strict=True))
    assert torch.equal(first, again)


def test_convolutions_by_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_layers, "UNFOLDED", 0)
    unet = network("sd1")
    layers = [module for module in unet.modules() if isinstance(module, nn.Conv2d)]
    monkeypatch.setattr(lean, "Winograd", lambda found, most: Winograd(found, most, least_channels=1))
    run = Lean(unet, max_bytes=1 << 30)
    assert any(run._winograd.takes(one) for one in layers)
    got, expected = both(unet, run, 2, 16, 24)
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-5)


def test_tiling_is_seen() -> None:
    unet = network("sd1")
    run, tiling = Lean(unet), Tiling(unet)
    plain, _ = both(unet, run, 2, 8, 8)
    tiling.switch(True)
    got, expected = both(unet, run, 2, 8, 8)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (got - plain).abs().max() > 1e-3


def test_parameters_are_looked_up_at_each_call() -> None:
    unet = network("sd1")
    run = Lean(unet)
    before, _ = both(unet, run, 1, 8, 8)
    for module in unet.modules():
        for name, own in list(module._parameters.items()):
            if own is not None:
                module._parameters[name] = nn.Parameter(own * 1.01, requires_grad=False)
    got, expected = both(unet, run, 1, 8, 8)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (got - before).abs().max() > 1e-3


@pytest.mark.parametrize("place", ["attn1", "attn2.to_k", "attn2.to_v", "attn1.to_v"])
def test_hooks_are_called(place: str) -> None:
    unet = network("sd1")
    run = Lean(unet)
    before, _ = both(unet, run, 1, 8, 8)
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    block.get_submodule(place).register_forward_pre_hook(lambda _, given: (given[0] * 1.5, *given[1:]))
    got, expected = both(unet, run, 1, 8, 8)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (got - before).abs().max() > 1e-4


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (5, 4), (8, 8)])
def test_small_planes_are_unfolded(size: tuple[int, int], stride: int) -> None:
    conv = nn.Conv2d(6, 10, 3, stride=stride, padding=1).requires_grad_(False)
    conv.to(memory_format=torch.channels_last)
    x = random(3, 6, *size).to(memory_format=torch.channels_last)
    torch.testing.assert_close(Convolver(NONE)(conv, x), conv(x), rtol=0, atol=1e-6)


def test_kernels_that_outweigh_their_pixels() -> None:
    conv = nn.Conv2d(264, 256, 3, padding=1).requires_grad_(False).to(memory_format=torch.channels_last)
    x = random(1, 264, 12, 12).to(memory_format=torch.channels_last)
    assert lean_layers._outweighs(conv.weight, 144, False)
    assert x.numel() > lean_layers.UNFOLDED
    torch.testing.assert_close(Convolver(NONE)(conv, x), conv(x), rtol=0, atol=1e-5)
    assert not lean_layers._outweighs(conv.weight, 400, False)
    assert lean_layers._outweighs(conv.weight, 64, True)
    assert not lean_layers._outweighs(conv.weight, 128, True)
    assert not lean_layers._outweighs(conv.weight.bfloat16(), 144, False)


def test_networks_of_other_kinds_are_told() -> None:
    unet = network("sd1")
    assert is_plain(unet)
    for changed in (
        {"resnet_time_scale_shift": "scale_shift"},
        {"down_block_types": ("AttnDownBlock2D",)},
        {"class_embed_type": "timestep"},
    ):
        unet = network("sd1")
        unet.register_to_config(**changed)
        assert not is_plain(unet)
