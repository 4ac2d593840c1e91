"""What samplers are given and how they ask: the border between samplers and programs."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdserver.jobs.job import UniPC
from sdserver.sampling.guidance import Guided
from sdserver.sampling.levels import Levels

# A sampler yields (x, sigma) where it needs the denoiser, x in the variance-exploding frame
# (x0 + sigma * noise), is sent the denoised latent and returns its last x.
Evaluations = Generator[tuple[Tensor, float], Tensor, Tensor]

# The same for a sampler that wants the negative prompt's denoised latent too.
GuidedEvaluations = Generator[tuple[Tensor, float], Guided, Tensor]

# Either of them: which one, and so what is sent, is known by the sampler's `wants_uncond`.
AnyEvaluations = Generator[tuple[Tensor, float], Any, Tensor]

# Normal noise of variance 1 for the step from one sigma to the next.
StepNoise = Callable[[float, float], Tensor]

DEFAULT_UNIPC = UniPC()


@dataclass(frozen=True, slots=True)
class SigmaRun:
    """One image's run of a sampler that walks sigmas.

    Attributes:
        sigmas: the schedule, descending; the last one (mostly 0) is not evaluated.
        noise: the source of all noise that the sampler adds.
        steps: as asked for; `len(sigmas) - 1` may differ.
        sigma_min, sigma_max: the limits of samplers that choose their own steps, above 0.
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
        levels: the model's noise levels, per timestep.
        eta: scale of the noise that DDIM adds.
        unipc: options of the sampler of that name.
        from_picture: the run starts from a picture, at the highest of `timesteps` or just above.
    """

    timesteps: tuple[int, ...]
    levels: Levels
    noise: StepNoise
    eta: float = 0.0
    unipc: UniPC = DEFAULT_UNIPC
    from_picture: bool = False
