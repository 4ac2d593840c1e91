"""Samplers that walk the model's own timesteps, as AUTOMATIC1111 runs them.

Each takes and returns one image's x in the variance-preserving frame, sqrt(alpha) * x0 +
sqrt(1 - alpha) * noise; what it yields is in the variance-exploding frame, as in `sampling.samplers`.
They end at the lowest timestep without evaluating it, so n timesteps mean n - 1 steps.
"""

import math
from collections.abc import Generator
from itertools import pairwise

from torch import Tensor

from sdserver.sampling.run import Evaluations, GuidedEvaluations, TimestepRun
from sdserver.sampling.samplers import to_d

Predictions = Generator[tuple[Tensor, float], Tensor, Tensor]

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
        x_exploding, sigma = _exploded(x, timestep, run)
        eps = to_d(x_exploding, sigma, (yield x_exploding, sigma))
        x = _ddim_step(x, eps, eps, (timestep, following), run)
    return x


def ddim_cfgpp(x: Tensor, run: TimestepRun) -> GuidedEvaluations:
    """DDIM that returns to the noise along the unguided prediction: Chung et al. (2024), CFG++."""
    for timestep, following in _downwards(run):
        x_exploding, sigma = _exploded(x, timestep, run)
        guided = yield x_exploding, sigma
        eps = to_d(x_exploding, sigma, guided.denoised)
        direction = to_d(x_exploding, sigma, guided.uncond)
        x = _ddim_step(x, eps, direction, (timestep, following), run)
    return x


def plms(x: Tensor, run: TimestepRun) -> Evaluations:
    """Pseudo linear multistep: Liu et al. (2022), "Pseudo Numerical Methods for Diffusion Models"."""
    slopes: list[Tensor] = []
    for timestep, following in _downwards(run):
        eps = yield from _predict(x, timestep, run)
        slopes = [eps, *slopes[: len(ADAMS_BASHFORTH) - 1]]
        if len(slopes) == 1:
            eps_next = yield from _predict(_transfer(x, eps, timestep, following, run), following, run)
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


def _exploded(x: Tensor, timestep: int, run: TimestepRun) -> tuple[Tensor, float]:
    """The sampler's x in the variance-exploding frame, and its sigma."""
    sigma = run.levels.sigma(timestep)
    return x * math.sqrt(1 + sigma**2), sigma


def _predict(x: Tensor, timestep: int, run: TimestepRun) -> Predictions:
    """The noise in x."""
    x_exploding, sigma = _exploded(x, timestep, run)
    return to_d(x_exploding, sigma, (yield x_exploding, sigma))


def _ddim_step(x: Tensor, eps: Tensor, direction: Tensor, step: tuple[int, int], run: TimestepRun) -> Tensor:
    """Take the noise `eps` out of x and put the noise `direction` of the next timestep in."""
    alpha, alpha_next = (run.levels.alphas[timestep] for timestep in step)
    denoised = _without(x, eps, step[0], run)
    spread = run.eta * math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
    # Above eta 1 the direction's variance can fall below 0.
    share = math.sqrt(max(1 - alpha_next - spread**2, 0.0))
    moved = denoised * math.sqrt(alpha_next) + direction * share
    if run.eta == 0:
        return moved  # nobody would see what is drawn
    return moved + run.noise(*(run.levels.sigma(timestep) for timestep in step)) * spread


def _transfer(x: Tensor, eps: Tensor, timestep: int, following: int, run: TimestepRun) -> Tensor:
    """Move x to another timestep along a noise; Liu et al. (2022), equation 11."""
    alpha_next = run.levels.alphas[following]
    return _without(x, eps, timestep, run) * math.sqrt(alpha_next) + eps * math.sqrt(1 - alpha_next)


def _without(x: Tensor, eps: Tensor, timestep: int, run: TimestepRun) -> Tensor:
    """The latent that is left when the noise is taken out of x."""
    return (x - eps * run.levels.rests[timestep]) / math.sqrt(run.levels.alphas[timestep])
