"""The lean decoder against diffusers' own."""

import copy
from typing import Any

import pytest
import torch
from bundle_calls import random
from tiny_checkpoints import Write, make
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle import lean_decoder
from sdserver.bundle.detect import detect
from sdserver.bundle.device import resolve
from sdserver.bundle.lean_decoder import LeanDecoder, doubled, is_plain
from sdserver.bundle.spec import Spec
from sdserver.bundle.tiling import Tiling
from sdserver.bundle.vae import Autoencoder
from sdserver.bundle.weights import open_weights
from sdserver.bundle.winograd import Winograd


def autoencoder() -> Any:
    """Of the test's own, for it is changed."""
    vae: Any = copy.deepcopy(make("sd1").vae).eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)


def both(vae: Any, run: LeanDecoder, *size: int) -> tuple[Tensor, Tensor]:
    """The lean pass' result and diffusers'."""
    rows, height, width = size
    x = random(rows, vae.config.latent_channels, height, width).to(memory_format=torch.channels_last)
    before = x.clone()
    with torch.no_grad():
        got, (expected,) = run(x), vae.decode(x, return_dict=False)
    assert torch.equal(x, before)
    return got, expected


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 4, 6), (2, 9, 13)])
def test_it_is_the_same_network(size: tuple[int, int, int]) -> None:
    vae = autoencoder()
    assert is_plain(vae)
    torch.testing.assert_close(*both(vae, LeanDecoder(vae), *size), rtol=0, atol=1e-5)


def test_convolutions_by_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_decoder, "Winograd", lambda found, most: Winograd(found, most, least_channels=1))
    vae = autoencoder()
    run = LeanDecoder(vae, 1 << 30)
    got, expected = both(vae, run, 1, 24, 24)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert run._winograd._kernels
    run.clear()
    assert not run._winograd._kernels


def test_tiling_is_seen() -> None:
    vae = autoencoder()
    run, tiling = LeanDecoder(vae), Tiling(vae)
    plain, _ = both(vae, run, 1, 8, 8)
    tiling.switch(True)
    got, expected = both(vae, run, 1, 8, 8)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (got - plain).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (8, 8), (7, 4)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_kernels_are_folded_for_doubled_planes(size: tuple[int, int], has_bias: bool) -> None:
    conv = nn.Conv2d(6, 10, 3, padding=1, bias=has_bias).requires_grad_(False)
    conv.to(memory_format=torch.channels_last)
    x = random(2, 6, *size).to(memory_format=torch.channels_last)
    expected = conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(doubled(conv, x), expected, rtol=0, atol=1e-6)


def test_who_watches_is_told() -> None:
    vae = autoencoder()
    run = LeanDecoder(vae)
    assert not run.is_watched
    hook = vae.decoder.mid_block.attentions[0].register_forward_pre_hook(lambda *_: None)
    assert run.is_watched
    hook.remove()
    assert not run.is_watched


@pytest.fixture
def spec(checkpoint: Write) -> Spec:
    path, _ = checkpoint("sd1")
    with open_weights(path, allow_pickle=False) as weights:
        return detect(weights, None).spec


def test_a_hook_is_called_and_pieces_are_made(spec: Spec) -> None:
    vae, calls = autoencoder(), []
    decoder = Autoencoder(vae, spec, resolve("cpu", "fp32", "sdpa"))
    latents = random(1, vae.config.latent_channels, 8, 8)
    with torch.no_grad():
        expected = decoder.values(latents)
        assert not calls
        hook = vae.decoder.register_forward_pre_hook(lambda *_: calls.append(1))
        torch.testing.assert_close(decoder.values(latents), expected, rtol=0, atol=1e-5)
        assert len(calls) == 1
        decoder.values(latents, piece=4)
        hook.remove()
    assert len(calls) > 2


def test_autoencoders_of_other_kinds_are_told() -> None:
    vae = autoencoder()
    vae.register_to_config(up_block_types=("AttnUpDecoderBlock2D",))
    assert not is_plain(vae)
    assert not is_plain(nn.Identity())
