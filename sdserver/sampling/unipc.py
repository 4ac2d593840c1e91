"""The UniPC sampler (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework").

As AUTOMATIC1111 runs it: multistep, predicting x0, without a correction at the last step, over as many
fractional timesteps as DDIM would have. Frames are those of `sampling.timestep_samplers`.
"""

import math
from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sdserver.jobs.job import UniPC
from sdserver.sampling.levels import Levels
from sdserver.sampling.run import Evaluations, TimestepRun


@dataclass(frozen=True, slots=True)
class Level:
    """A noise level of the variance-preserving frame; `half_snr` is the paper's lambda.

    Attributes:
        timestep: what the network is told, 0 to 999, fractional.
    """

    root: float
    rest: float
    timestep: float

    @property
    def sigma(self) -> float:
        """The noise level of the variance-exploding frame."""
        return self.rest / self.root

    @property
    def half_snr(self) -> float:
        return math.log(self.root / self.rest)


@dataclass(frozen=True, slots=True)
class _Known:
    """A denoised latent and where it was predicted."""

    level: Level
    denoised: Tensor


@dataclass(frozen=True, slots=True)
class _Step:
    """A step to `level`. `ratios` are the known points' distances in units of the step, newest first."""

    level: Level
    h: float
    ratios: tuple[float, ...]
    options: UniPC


def unipc(x: Tensor, run: TimestepRun) -> Evaluations:
    """UniPC: Zhao et al. (2023), Algorithms 5 to 8.

    The order is at most the number of steps; AUTOMATIC1111 fails where it is more.
    """
    count, options = len(run.timesteps), run.unipc
    if count == 0:
        return x
    order = min(options.order, count)
    levels = path(run)
    known = [_Known(levels[0], (yield from _denoise(x, levels[0])))]
    for step in range(1, count + 1):
        is_start = step < order
        final_order = min(order, count + 1 - step) if options.lower_order_final else order
        step_order = step if is_start else final_order
        corrects = is_start or step < count
        advance = partial(_advance, x, known[:step_order], levels[step], options)
        x, denoised = yield from advance(corrects)
        if denoised is not None:
            known = [_Known(levels[step], denoised), *known[: order - 1]]
    return x


def path(run: TimestepRun) -> list[Level]:
    """The levels that are walked, one more than there are timesteps.

    Times are computed in float32 like AUTOMATIC1111's: for v it looks levels up at their whole part.
    """
    levels, count, skip = run.levels, len(run.timesteps), run.unipc.skip_type
    total = len(levels.alphas)
    first = float(torch.tensor(run.timesteps[-1]) / total + 1 / total) if run.from_picture else 1.0
    last = 1 / total
    if skip == "logSNR":
        high, low = (_level(levels, time, 0.0).half_snr for time in (first, last))
        times = torch.tensor([_time_of(levels, snr) for snr in torch.linspace(high, low, count + 1).tolist()])
    elif skip == "time_quadratic":
        times = torch.linspace(first**0.5, last**0.5, count + 1).pow(2)
    else:
        times = torch.linspace(first, last, count + 1)
    timesteps = ((times - 1 / total) * total).clamp(0, total - 1).tolist()
    return [_level(levels, *both) for both in zip(times.tolist(), timesteps, strict=True)]


def _advance(
    x: Tensor, known: Sequence[_Known], level: Level, options: UniPC, corrects: bool
) -> Generator[tuple[Tensor, float], Tensor, tuple[Tensor, Tensor | None]]:
    """Predict x at `level` and, if asked, evaluate there and correct; the known points newest first."""
    newest = known[0]
    h = level.half_snr - newest.level.half_snr
    ratios = tuple((point.level.half_snr - newest.level.half_snr) / h for point in known[1:])
    step = _Step(level, h, ratios, options)
    slopes = [
        (point.denoised - newest.denoised) / ratio for point, ratio in zip(known[1:], ratios, strict=True)
    ]
    base = x * (level.rest / newest.level.rest) - newest.denoised * (level.root * math.expm1(-h))
    predicted = _added(base, slopes, _weights(step, corrects=False), level.root)
    if not corrects:
        return predicted, None
    denoised = yield from _denoise(predicted, level)
    slopes = [*slopes, denoised - newest.denoised]
    return _added(base, slopes, _weights(step, corrects=True), level.root), denoised


def _added(base: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    for slope, weight in zip(slopes, weights, strict=True):
        base = base + slope * (weight * scale)
    return base


def _weights(step: _Step, corrects: bool) -> list[float]:
    """The coefficients of the slopes, in units of the root of alpha."""
    if step.options.variant == "vary_coeff":
        return _varying_weights(step, corrects)
    ratios = (*step.ratios, 1.0) if corrects else step.ratios
    count = len(ratios)
    scale = step.h if step.options.variant == "bh1" else -math.expm1(-step.h)
    if count <= 1:
        # The authors' code: exact for order 1 and 2 as the step goes to 0.
        return [0.5 * scale] * count
    rows = [[ratio**power for ratio in ratios] for power in range(count)]
    right = [phi * math.factorial(power + 1) for power, phi in enumerate(_phis(step.h, count))]
    solved = torch.linalg.solve(_doubles(rows), _doubles(right))
    return [-float(weight) for weight in solved.tolist()]


def _varying_weights(step: _Step, corrects: bool) -> list[float]:
    """The authors' variant whose coefficients vary with the step, with the corrector as they wrote it.

    Its last slope is weighted by the last but one row of the inverse.
    """
    ratios = (*step.ratios, 1.0) if corrects else step.ratios
    count = len(ratios)
    if count == 0:
        return []
    rows = [[ratio**power / math.factorial(power + 1) for power in range(count)] for ratio in ratios]
    inverse = torch.linalg.inv(_doubles(rows)).tolist()
    phis = _phis(step.h, count)
    used = count - 1 if corrects else count
    weights = [-sum(phis[row] * inverse[row][column] for row in range(used)) for column in range(used)]
    if corrects:
        weights.append(-phis[count - 1] * inverse[max(used - 1, 0)][-1])
    return weights


def _phis(h: float, count: int) -> list[float]:
    """The paper's h * phi_k(-h) for k from 2 on: expm1(-h) / -h - 1, and so forth."""
    phis, phi, factorial = [], math.expm1(-h), 1.0
    for k in range(1, count + 1):
        phi = phi / -h - 1 / factorial
        factorial *= k + 1
        phis.append(phi)
    return phis


def _denoise(x: Tensor, level: Level) -> Evaluations:
    """The denoised latent for an x of the variance-preserving frame."""
    return (yield x / level.root, level.sigma)


def _level(levels: Levels, time: float, timestep: float) -> Level:
    """The level at a time of (0, 1], linear in log alpha between whole timesteps."""
    position = min(max(time * len(levels.alphas) - 1, 0.0), len(levels.alphas) - 1.0)
    low = min(int(position), len(levels.alphas) - 2)
    weight = position - low
    log = (1 - weight) * levels.log_roots[low] + weight * levels.log_roots[low + 1]
    return Level(math.exp(log), math.sqrt(-math.expm1(2 * log)), timestep)


def _time_of(levels: Levels, half_snr: float) -> float:
    """The time at which the logarithm of root / rest is this."""
    log = -0.5 * math.log1p(math.exp(-2 * half_snr))
    rising = [-value for value in levels.log_roots]
    high = min(max(bisect_right(rising, -log), 1), len(rising) - 1)
    share = (-log - rising[high - 1]) / (rising[high] - rising[high - 1])
    return (high + share) / len(rising)


def _doubles(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
