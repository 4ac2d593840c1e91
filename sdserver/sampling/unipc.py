"""The UniPC sampler (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework").

As AUTOMATIC1111 runs it: multistep, predicting x0, variant B1(h) = h, order 3 falling to 1 at the end,
no correction at the last step, over as many evenly spaced fractional timesteps as DDIM would have.
Frames are those of `sampling.timestep_samplers`.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdserver.sampling.run import Evaluations, TimestepRun

ORDER = 3


@dataclass(frozen=True, slots=True)
class _Level:
    """A noise level of the variance-preserving frame; `half_snr` is the paper's lambda."""

    alpha: float
    sigma: float

    @property
    def half_snr(self) -> float:
        return math.log(self.alpha / self.sigma)


@dataclass(frozen=True, slots=True)
class _Known:
    """A denoised latent and where it was predicted."""

    level: _Level
    denoised: Tensor


@dataclass(frozen=True, slots=True)
class _Step:
    """A step to `level`. `ratios` are the known points' distances in units of the step, newest first."""

    level: _Level
    h: float
    ratios: tuple[float, ...]


def unipc(x: Tensor, run: TimestepRun) -> Evaluations:
    """UniPC-3: Zhao et al. (2023), Algorithms 5 to 8, with B1(h)."""
    count = len(run.timesteps)
    order = ORDER if count > 1 else 1
    top = len(run.alphas) - 1
    levels = [_level(run.alphas, top * (1 - step / count)) for step in range(count + 1)]
    known = [_Known(levels[0], (yield from _denoise(x, levels[0])))]
    for step in range(1, max(count, order - 1) + 1):
        is_start = step < order
        step_order = step if is_start else min(order, count + 1 - step)
        corrects = is_start or step < count
        x, denoised = yield from _advance(x, known[:step_order], levels[step], corrects)
        if denoised is not None:
            known = [_Known(levels[step], denoised), *known[: order - 1]]
    return x


def _advance(
    x: Tensor, known: Sequence[_Known], level: _Level, corrects: bool
) -> Generator[tuple[Tensor, float], Tensor, tuple[Tensor, Tensor | None]]:
    """Predict x at `level` and, if asked, evaluate there and correct; the known points newest first."""
    newest = known[0]
    h = level.half_snr - newest.level.half_snr
    step = _Step(level, h, tuple((point.level.half_snr - newest.level.half_snr) / h for point in known[1:]))
    slopes = [
        (point.denoised - newest.denoised) / ratio
        for point, ratio in zip(known[1:], step.ratios, strict=True)
    ]
    base = x * (level.sigma / newest.level.sigma) - newest.denoised * (level.alpha * math.expm1(-h))
    predicted = _added(base, slopes, _weights(step, corrects=False), level.alpha * h)
    if not corrects:
        return predicted, None
    denoised = yield from _denoise(predicted, level)
    slopes = [*slopes, denoised - newest.denoised]
    return _added(base, slopes, _weights(step, corrects=True), level.alpha * h), denoised


def _added(base: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    for slope, weight in zip(slopes, weights, strict=True):
        base = base + slope * (weight * scale)
    return base


def _weights(step: _Step, corrects: bool) -> list[float]:
    """The coefficients of the slopes; theorem 3.1 of the paper.

    The predictor of order 2 and the corrector of order 1 take 1/2, as the authors' code does.
    """
    ratios = (*step.ratios, 1.0) if corrects else step.ratios
    count = len(ratios)
    if count == 0:
        return []
    if count == 1:
        return [0.5]
    rows = [[ratio**power for ratio in ratios] for power in range(count)]
    right, phi, factorial = [], math.expm1(-step.h) / -step.h - 1, 1.0
    for power in range(count):
        right.append(phi * factorial / -step.h)
        factorial *= power + 2
        phi = phi / -step.h - 1 / factorial
    solved = torch.linalg.solve(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    )
    return [float(weight) for weight in solved.tolist()]


def _denoise(x: Tensor, level: _Level) -> Evaluations:
    """The denoised latent for an x of the variance-preserving frame."""
    return (yield x / level.alpha, level.sigma / level.alpha)


def _level(alphas: Sequence[float], timestep: float) -> _Level:
    """The level at a fractional timestep, linear in log alpha."""
    low = min(int(timestep), len(alphas) - 2)
    weight = timestep - low
    log = (1 - weight) * math.log(alphas[low]) + weight * math.log(alphas[low + 1])
    return _Level(math.exp(0.5 * log), math.sqrt(-math.expm1(log)))
