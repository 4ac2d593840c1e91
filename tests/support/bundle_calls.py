"""Calls to a bundle, as tests make them: one result, errors raised."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Conditioning, Decode, EncodeText, Predict, UseModel
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Emphasis, Prompt, Size
from sdserver.jobs.model import Model, ModelFacts


def use(bundle: Bundle, path: Path) -> ModelFacts:
    (facts,) = bundle.run([UseModel(Model(str(path)))])
    assert isinstance(facts, ModelFacts)
    return facts


def text_call(
    path: Path,
    text: str,
    *,
    clip_skip: int = 1,
    emphasis: Emphasis = "Original",
    size: Size = Size(64, 96),  # noqa: B008 - frozen
    is_negative: bool = False,
    variants: tuple[str, ...] = (),
) -> EncodeText:
    prompt = Prompt(text, "", clip_skip, emphasis, 20)
    return EncodeText(Model(str(path)), text, prompt, size, is_negative, variants)


def encode(bundle: Bundle, calls: Sequence[EncodeText]) -> list[Conditioning]:
    results = bundle.run(calls)
    conditionings = [result for result in results if isinstance(result, Conditioning)]
    assert len(conditionings) == len(calls), results
    return conditionings


def predict(
    bundle: Bundle, path: Path, x: Tensor, timesteps: Tensor, conditionings: Sequence[Conditioning]
) -> Tensor:
    """The prediction for rows (n, channels, h, w), as one batch."""
    rows = zip(x, timesteps.tolist(), conditionings, strict=True)
    results = bundle.run([Predict(Model(str(path)), *row) for row in rows])
    predicted = [result for result in results if isinstance(result, Tensor)]
    assert len(predicted) == len(x), results
    return torch.stack(predicted)


def decode(bundle: Bundle, path: Path, latents: Tensor) -> list[Picture]:
    results = bundle.run([Decode(Model(str(path)), latent) for latent in latents])
    pictures = [result for result in results if isinstance(result, Picture)]
    assert len(pictures) == len(latents), results
    return pictures


def pixels(picture: Picture) -> Tensor:
    """(height, width, 3), integers."""
    flat = torch.frombuffer(bytearray(picture.pixels), dtype=torch.uint8)
    return flat.reshape(picture.height, picture.width, 3).int()


def assert_close(got: Tensor, expected: Tensor) -> None:
    """Equal but for the order of float32 sums."""
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))
