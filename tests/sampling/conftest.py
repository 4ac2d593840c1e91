import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from sdserver.jobs.job import Noise, Sampling
from sdserver.jobs.model import Model, ModelFacts
from sdserver.sampling.guidance import Guided
from sdserver.sampling.plan import Plan
from sdserver.sampling.run import AnyEvaluations

GOLDENS = Path(__file__).parent.parent / "goldens" / "sampling"


@pytest.fixture
def goldens() -> Path:
    return GOLDENS


@pytest.fixture
def facts() -> ModelFacts:
    with np.load(GOLDENS / "sigmas.npz") as arrays:
        alphas = tuple(arrays["alphas_cumprod"].tolist())
    return ModelFacts(Model("model"), "sd1", "epsilon", 4, alphas, inpainting=False)


@pytest.fixture
def sampling() -> Callable[..., Sampling]:
    def make(sampler: str, **changes: Any) -> Sampling:
        values: dict[str, Any] = {
            "sampler": sampler,
            "schedule": "Automatic",
            "steps": 20,
            "cfg_scale": 7.0,
            "eta": 0.0 if sampler in ("DDIM", "DDIM CFG++", "PLMS", "UniPC") else 1.0,
            "churn": 0.0,
            "churn_min": 0.0,
            "churn_max": math.inf,
            "noise_scale": 1.0,
            "sigma_min": 0.0,
            "sigma_max": 0.0,
            "rho": 0.0,
            "discard_penultimate": False,
        }
        return Sampling(**(values | changes))

    return make


@pytest.fixture
def noise_spec() -> Callable[..., Noise]:
    def make(**changes: Any) -> Noise:
        values: dict[str, Any] = {
            "seed": 1234,
            "subseed": 0,
            "strength": 0.0,
            "resize_from": None,
            "seed_delta": 0,
            "source": "CPU",
        }
        return Noise(**(values | changes))

    return make


@pytest.fixture
def drive() -> Callable[[AnyEvaluations, Callable[[Tensor, float], Tensor | Guided]], Tensor]:
    """Run a sampler to its end with a denoiser of (x, sigma)."""

    def run(evaluations: AnyEvaluations, denoiser: Callable[[Tensor, float], Tensor | Guided]) -> Tensor:
        try:
            x, sigma = next(evaluations)
            while True:
                x, sigma = evaluations.send(denoiser(x, sigma))
        except StopIteration as stop:
            result: Tensor = stop.value
            return result

    return run


@pytest.fixture
def answering() -> Callable[[Plan, Callable[[Tensor, float], Tensor]], Callable[[Tensor, float], Any]]:
    """A denoiser that sends a plan's sampler what it wants; without guidance both latents are one."""

    def make(plan: Plan, denoiser: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Any]:
        def answer(x: Tensor, sigma: float) -> Tensor | Guided:
            denoised = denoiser(x, sigma)
            return Guided(denoised, denoised) if plan.sampler.wants_uncond else denoised

        return answer

    return make
