"""What samplers are given and how they ask: the border between samplers and programs."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import Tensor

# A sampler yields (x, sigma) where it needs the denoiser, x in the variance-exploding frame
# (x0 + sigma * noise), is sent the denoised latent and returns its last x.
Evaluations = Generator[tuple[Tensor, float], Tensor, Tensor]

# Normal noise of variance 1 for the step from one sigma to the next.
StepNoise = Callable[[float, float], Tensor]


@dataclass(frozen=True, slots=True)
class SigmaRun:
    """One image's run of a sampler that walks sigmas.

    Attributes:
        sigmas: the schedule, descending; the last one (mostly 0) is not evaluated.
        noise: the source of all noise that the sampler adds.
        steps: as asked for; `len(sigmas) - 1` may differ.
        sigma_min, sigma_max: the model's own limits.
        eta, churn, churn_min, churn_max, noise_scale: as in `jobs.job.Sampling`.
    """

    sigmas: tuple[float, ...]
    noise: StepNoise
    steps: int
    sigma_min: float
    sigma_max: float
    eta: float = 1.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    noise_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class TimestepRun:
    """One image's run of a sampler that walks the model's timesteps.

    Such a sampler takes and returns x in the variance-preserving frame, sqrt(alpha) * x0 +
    sqrt(1 - alpha) * noise, and yields it in the variance-exploding one like all others.

    Attributes:
        timesteps: ascending, 0..999; the lowest is where the run ends and is not evaluated.
        alphas: the cumulative products of alpha, per timestep of the model.
        sigmas: the model's sigmas, per timestep.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    noise: StepNoise
    eta: float = 0.0
