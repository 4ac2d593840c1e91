"""Samplers that walk the model's own timesteps, as AUTOMATIC1111 runs them.

Each takes and returns one image's x in the variance-preserving frame, sqrt(alpha) * x0 +
sqrt(1 - alpha) * noise; what it yields is in the variance-exploding frame, as in `sampling.samplers`.
They end at the lowest timestep without evaluating it, so n timesteps mean n - 1 steps.
"""

import math
from collections.abc import Generator
from itertools import pairwise

from torch import Tensor

from sdserver.sampling.run import Evaluations, TimestepRun

Predictions = Generator[tuple[Tensor, float], Tensor, tuple[Tensor, Tensor]]

# Adams-Bashforth weights by the number of slopes known, newest first.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ddim(x: Tensor, run: TimestepRun) -> Evaluations:
    """Denoising diffusion implicit models: Song et al. (2020), equations 12 and 16."""
    for timestep, following in _downwards(run):
        alpha, alpha_next = run.alphas[timestep], run.alphas[following]
        denoised, eps = yield from _predict(x, timestep, run)
        spread = run.eta * math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
        # Above eta 1 the direction's variance can fall below 0.
        direction = math.sqrt(max(1 - alpha_next - spread**2, 0.0))
        noise = run.noise(run.sigmas[timestep], run.sigmas[following])
        x = denoised * math.sqrt(alpha_next) + eps * direction + noise * spread
    return x


def plms(x: Tensor, run: TimestepRun) -> Evaluations:
    """Pseudo linear multistep: Liu et al. (2022), "Pseudo Numerical Methods for Diffusion Models"."""
    slopes: list[Tensor] = []
    for timestep, following in _downwards(run):
        _, eps = yield from _predict(x, timestep, run)
        slopes = [eps, *slopes[: len(ADAMS_BASHFORTH) - 1]]
        if len(slopes) == 1:
            _, eps_next = yield from _predict(_transfer(x, eps, timestep, following, run), following, run)
            combined = (eps + eps_next) / 2
        else:
            weights = ADAMS_BASHFORTH[len(slopes) - 1]
            combined = slopes[0] * weights[0]
            for slope, weight in zip(slopes[1:], weights[1:], strict=True):
                combined = combined + slope * weight
        x = _transfer(x, combined, timestep, following, run)
    return x


def _downwards(run: TimestepRun) -> list[tuple[int, int]]:
    return list(pairwise(run.timesteps[::-1]))


def _predict(x: Tensor, timestep: int, run: TimestepRun) -> Predictions:
    """The denoised latent and the noise in x."""
    sigma = run.sigmas[timestep]
    x_exploding = x * math.sqrt(1 + sigma**2)
    denoised = yield x_exploding, sigma
    return denoised, (x_exploding - denoised) / sigma


def _transfer(x: Tensor, eps: Tensor, timestep: int, following: int, run: TimestepRun) -> Tensor:
    """Move x to another timestep along a noise; Liu et al. (2022), equation 11."""
    alpha, alpha_next = run.alphas[timestep], run.alphas[following]
    ratio = math.sqrt(alpha_next / alpha)
    return x * ratio + eps * (math.sqrt(1 - alpha_next) - ratio * math.sqrt(1 - alpha))
