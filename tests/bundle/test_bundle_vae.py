from pathlib import Path

import pytest
import torch
from bundle_calls import random
from tiny_checkpoints import Write
from torch import Tensor, nn

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.detect import detect
from sdserver.bundle.device import resolve
from sdserver.bundle.spec import Spec
from sdserver.bundle.vae import Autoencoder
from sdserver.bundle.weights import open_weights
from sdserver.calls import Encode
from sdserver.errors import EngineFailure
from sdserver.jobs.model import Model


class FakePosterior:
    def __init__(self, mean: Tensor) -> None:
        self._mean = mean

    def mode(self) -> Tensor:
        return self._mean


class FakeVae(nn.Module):
    """Encodes to its input, or to no number in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def encode(self, sample: Tensor, *, return_dict: bool) -> tuple[FakePosterior]:
        assert not return_dict
        self.dtypes.append(sample.dtype)
        return (FakePosterior(sample if sample.dtype == torch.float32 else sample * float("nan")),)


@pytest.fixture
def spec(checkpoint: Write) -> Spec:
    path, _ = checkpoint("sd1")
    with open_weights(path, allow_pickle=False) as weights:
        return detect(weights, None).spec


def test_an_encoder_that_overflows_goes_on_in_fp32(spec: Spec) -> None:
    vae = FakeVae()
    encoder = Autoencoder(vae, spec, resolve("cpu", "fp16", "sdpa"))
    for _ in range(2):
        (latent,) = encoder.encode(torch.ones(1, 3, 2, 2))
        assert isinstance(latent, Tensor)
        assert torch.equal(latent, torch.full((3, 2, 2), spec.latent_scale))
    assert vae.dtypes == [torch.float16, torch.float32, torch.float32]


def test_pixels_that_are_no_numbers_fail_alone(spec: Spec) -> None:
    pixels = torch.zeros(2, 3, 2, 2)
    pixels[0, 0, 0, 0] = float("nan")
    bad, good = Autoencoder(FakeVae(), spec, resolve("cpu", "fp32", "sdpa")).encode(pixels)
    assert isinstance(bad, EngineFailure)
    assert isinstance(good, Tensor)


def encoded(path: Path, pixels: Tensor) -> Tensor:
    (latent,) = Bundle("cpu", "fp32").run([Encode(Model(str(path)), pixels)])
    assert isinstance(latent, Tensor)
    return latent


@pytest.mark.parametrize("pixels", [torch.zeros(3, 64, 64), random(3, 32, 64).clamp(-1, 1)])
def test_the_encoder_sums_in_the_original_order_on_a_cpu(checkpoint: Write, pixels: Tensor) -> None:
    """To the last bit: an inpainting checkpoint's grey picture makes much of little."""
    path, original = checkpoint("sd1")
    (posterior,) = original.vae.encode(pixels.unsqueeze(0), return_dict=False)  # type: ignore[operator]
    assert torch.equal(encoded(path, pixels), posterior.mode()[0] * 0.18215)
