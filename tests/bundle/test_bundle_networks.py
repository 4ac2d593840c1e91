"""The parts where the UNet and the decoder follow A1111 rather than diffusers."""

from typing import Any

import pytest
import torch
from bundle_calls import assert_close, random
from diffusers.models.upsampling import Upsample2D
from tiny_checkpoints import TEXT_WIDTH, make, tensors
from torch import nn
from torch.nn import functional

from sdserver.bundle.detect import detect
from sdserver.bundle.device import resolve
from sdserver.bundle.spec import Spec
from sdserver.bundle.unet import Network, UpsampleThenFit, replace_upsampling
from sdserver.bundle.vae import Autoencoder
from sdserver.bundle.weights import LoadedWeights
from sdserver.errors import EngineFailure
from sdserver.jobs.events import Picture

PLACEMENT = resolve("cpu", "fp32", "sdpa")


@pytest.fixture(scope="module")
def spec() -> Spec:
    return detect(LoadedWeights(tensors("sd1", make("sd1"))), None).spec


def test_up_sampling_doubles_convolves_and_then_fits() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    upsample, x = UpsampleThenFit(conv), random(1, 2, 3, 4)
    doubled = conv(functional.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(upsample(x), doubled)
    torch.testing.assert_close(upsample(x, (6, 8)), doubled)
    # Nearest from 6x8 to 5x7: row k of 5 comes from row floor(6k/5).
    rows, columns = [6 * k // 5 for k in range(5)], [8 * k // 7 for k in range(7)]
    torch.testing.assert_close(upsample(x, (5, 7)), doubled[:, :, rows][:, :, :, columns])


def test_all_up_samplings_are_replaced_with_their_weights() -> None:
    unet = make("sd1").unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    replace_upsampling(unet)
    assert not any(isinstance(module, Upsample2D) for module in unet.modules())
    assert sum(isinstance(module, UpsampleThenFit) for module in unet.modules()) == 2
    after = unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sizes_that_do_not_halve_evenly(spec: Spec) -> None:
    """Where all sides halve evenly the two orders agree; elsewhere they must not."""
    original: Any = make("sd1").unet
    network = Network(make("sd1").unet, spec, PLACEMENT)
    t, context = torch.tensor([500.0]), random(1, 77, TEXT_WIDTH)
    even, odd = random(1, 4, 8, 12), random(1, 4, 9, 13)
    with torch.no_grad():
        assert_close(network.predict(even, t, context, None), original(even, t, context).sample)
        got = network.predict(odd, t, context, None)
        assert got.shape == odd.shape
        assert (got - original(odd, t, context).sample).abs().max() > 1e-3


def test_fractions_of_a_timestep_count(spec: Spec) -> None:
    network = Network(make("sd1").unet, spec, PLACEMENT)
    x, context = random(1, 4, 8, 8).expand(3, -1, -1, -1), random(1, 77, TEXT_WIDTH).expand(3, -1, -1)
    with torch.no_grad():
        low, middle, high = network.predict(x, torch.tensor([500.0, 500.5, 501.0]), context, None)
    assert (low - high).abs().max() > 1e-4
    # Rounding the timestep either way would make this half of the whole.
    assert (middle - (low + high) / 2).abs().max() < 0.3 * (low - high).abs().max()


class FakeVae(nn.Module):
    """Decodes to its input, or to no number in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def decode(self, sample: torch.Tensor, *, return_dict: bool) -> tuple[torch.Tensor]:
        assert not return_dict
        self.dtypes.append(sample.dtype)
        return (sample if sample.dtype == torch.float32 else sample * float("nan"),)


def test_pictures_are_clamped_scaled_and_truncated(spec: Spec) -> None:
    values = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 3.0])
    latent = (values * spec.latent_scale).expand(1, 3, 1, 6)
    (picture,) = Autoencoder(FakeVae(), spec, PLACEMENT).decode(latent)
    assert isinstance(picture, Picture)
    assert (picture.width, picture.height) == (6, 1)
    assert list(picture.pixels) == [level for level in (0, 0, 127, 254, 255, 255) for _ in range(3)]


def test_a_vae_that_overflows_goes_on_in_fp32(spec: Spec) -> None:
    vae = FakeVae()
    decoder = Autoencoder(vae, spec, resolve("cpu", "fp16", "sdpa"))
    assert isinstance(decoder.decode(torch.zeros(1, 3, 2, 2))[0], Picture)
    assert isinstance(decoder.decode(torch.zeros(1, 3, 2, 2))[0], Picture)
    assert vae.dtypes == [torch.float16, torch.float32, torch.float32]


def test_latents_that_are_no_numbers_fail_alone(spec: Spec) -> None:
    vae = FakeVae()
    latents = torch.zeros(2, 3, 2, 2)
    latents[0, 0, 0, 0] = float("nan")
    bad, good = Autoencoder(vae, spec, PLACEMENT).decode(latents)
    assert isinstance(bad, EngineFailure)
    assert isinstance(good, Picture)
