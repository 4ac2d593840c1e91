"""DPM-Solver with adaptive steps (Lu et al. 2022, DPM-Solver, Appendix C), after k-diffusion.

As AUTOMATIC1111 runs it: DPM-Solver-2 and -3 share their evaluations, their difference controls the
step. How many steps that makes depends on the network and on the picture. The job's noise scale has no
effect. The control of the step magnifies the last digits: A1111's own pictures differ by some grey levels
from one machine to another.
"""

import math

import torch
from torch import Tensor

from sdserver.sampling.dpm_solver import both_orders, overshooting
from sdserver.sampling.run import Evaluations, SigmaRun
from sdserver.sampling.scalars import time_of

ORDER = 3
FIRST_STEP = 0.05
RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE = 0.0078
ACCEPTED_FACTOR = 0.81
END_SLACK = 1e-5


def dpm_adaptive(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver-23 from `sigma_max` to `sigma_min`; ignores the schedule and the number of steps."""
    time, last = time_of(run.sigma_max), time_of(run.sigma_min)
    h = FIRST_STEP
    x_before = x
    while time < last - END_SLACK:
        move = overshooting(time, min(last, time + h), last, run.eta)
        low, high = yield from both_orders(x, time, move.solved)
        factor = _factor(_error(low, high, x_before), run)
        h *= factor
        if factor >= ACCEPTED_FACTOR:
            x, x_before = high + run.noise(*move.sigmas) * move.up, low
            time = move.end
    return x


def _error(low: Tensor, high: Tensor, before: Tensor) -> float:
    """The difference of the two orders in units of what is tolerated, root mean square."""
    tolerated = (torch.maximum(low.abs(), before.abs()) * RELATIVE_TOLERANCE).clamp(min=ABSOLUTE_TOLERANCE)
    return float(torch.linalg.vector_norm((low - high) / tolerated) / math.sqrt(low.numel()))


def _factor(error: float, run: SigmaRun) -> float:
    """By how much the next step is to be longer; k-diffusion's integral controller."""
    order = 1.5 if run.eta else ORDER
    return 1 + math.atan((1 / (error + 1e-8)) ** (1 / order) - 1)
