"""DPM-Solver with adaptive steps (Lu et al. 2022, DPM-Solver, Appendix C), after k-diffusion.

As AUTOMATIC1111 runs it: DPM-Solver-2 and -3 share their evaluations, their difference controls the
step. How many steps that makes depends on the network and on the picture. The job's noise scale has no
effect. The control of the step magnifies the last digits: A1111's own pictures differ by some grey levels
from one machine to another.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdserver.sampling.run import Evaluations, SigmaRun
from sdserver.sampling.samplers import ancestral_step, to_d

ORDER = 3
FIRST_STEP = 0.05
RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = 0.0078
ACCEPTED_FACTOR = 0.81
END_SLACK = 1e-5


@dataclass(frozen=True, slots=True)
class _Move:
    """A step in time, -log sigma: from `start` to `solved` by the solver, and by noise back to `end`."""

    start: float
    end: float
    solved: float
    up: float


def dpm_adaptive(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver-23 from `sigma_max` to `sigma_min`; ignores the schedule and the number of steps."""
    time, last = _time(run.sigma_max), _time(run.sigma_min)
    h = FIRST_STEP
    x_before = x
    while time < last - END_SLACK:
        move = _move(time, min(last, time + h), last, run)
        low, high = yield from _both_orders(x, move)
        factor = _factor(_error(low, high, x_before), run)
        h *= factor
        if factor >= ACCEPTED_FACTOR:
            noise = run.noise(_sigma(time), _sigma(move.end))
            x, x_before = high + noise * move.up, low
            time = move.end
    return x


def _move(start: float, end: float, last: float, run: SigmaRun) -> _Move:
    if run.eta == 0:
        return _Move(start, end, end, 0.0)
    sigma_next = _sigma(end)
    down, _ = ancestral_step(_sigma(start), sigma_next, run.eta)
    solved = min(last, _time(down)) if down > 0 else last
    return _Move(start, end, solved, math.sqrt(max(sigma_next**2 - _sigma(solved) ** 2, 0.0)))


def _both_orders(x: Tensor, move: _Move) -> Generator[tuple[Tensor, float], Tensor, tuple[Tensor, Tensor]]:
    """Where DPM-Solver-2 and DPM-Solver-3 get to, with three evaluations."""
    h = move.solved - move.start
    sigma, end = _sigma(move.start), _sigma(move.solved)
    first, second = (_sigma(move.start + share * h) for share in (1 / 3, 2 / 3))
    eps = to_d(x, sigma, (yield x, sigma))
    x_1 = x - eps * (first * math.expm1(h / 3))
    change_1 = to_d(x_1, first, (yield x_1, first)) - eps
    bend = math.expm1(2 / 3 * h) / (2 / 3 * h) - 1
    x_2 = x - eps * (second * math.expm1(2 / 3 * h)) - change_1 * (second * 2 * bend)
    change_2 = to_d(x_2, second, (yield x_2, second)) - eps
    straight = x - eps * (end * math.expm1(h))
    low = straight - change_1 * (1.5 * end * math.expm1(h))
    return low, straight - change_2 * (1.5 * end * (math.expm1(h) / h - 1))


def _time(sigma: float) -> float:
    return -math.log(sigma)


def _sigma(time: float) -> float:
    return math.exp(-time)


def _error(low: Tensor, high: Tensor, before: Tensor) -> float:
    """The difference of the two orders in units of what is tolerated, root mean square."""
    tolerated = (torch.maximum(low.abs(), before.abs()) * RELATIVE_TOLERANCE).clamp(min=ABSOLUTE_TOLERANCE)
    return float(((low - high) / tolerated).square().mean().sqrt())


def _factor(error: float, run: SigmaRun) -> float:
    """By how much the next step is to be longer; k-diffusion's integral controller."""
    order = 1.5 if run.eta else ORDER
    return 1 + math.atan((1 / (error + 1e-8)) ** (1 / order) - 1)
