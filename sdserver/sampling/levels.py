"""A model's own noise levels, one per timestep, after what a job wants done to them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdserver.jobs.job import NoiseSchedule

# What AUTOMATIC1111 puts in place of the 0 that a terminal SNR of zero asks for, to keep sigma finite.
TERMINAL_ALPHA = 4.8973451890853435e-08


@dataclass(frozen=True, slots=True)
class Levels:
    """The noise levels of the variance-preserving frame: x = root * x0 + rest * noise.

    Values were computed in half precision where `halved`, so `roots` and `rests` do not follow from
    `alphas` to more than its three digits.

    Attributes:
        alphas: the cumulative products of alpha.
        roots: their square roots.
        rests: the square roots of 1 - alpha.
        log_roots: the logarithms of the roots.
        halved: whether the values were rounded to half precision.
    """

    alphas: tuple[float, ...]
    roots: tuple[float, ...]
    rests: tuple[float, ...]
    log_roots: tuple[float, ...]
    halved: bool = False

    def sigma(self, timestep: int) -> float:
        """The noise level of the variance-exploding frame."""
        return math.sqrt((1 - self.alphas[timestep]) / self.alphas[timestep])


def model_levels(
    alphas: Sequence[float], noise_schedule: NoiseSchedule = "Default", downcast: bool = False
) -> Levels:
    """The levels that a job sees.

    Args:
        alphas: the model's cumulative products of alpha.
        noise_schedule: "Zero Terminal SNR" stretches them so that the last one is all noise.
        downcast: round them to half precision first, and go on computing in it.
    """
    values = torch.tensor(alphas, dtype=torch.float16 if downcast else torch.float32)
    if noise_schedule == "Zero Terminal SNR":
        values = _zero_terminal_snr(values)
    if downcast:
        parts = (values, values.sqrt(), (1 - values).sqrt(), 0.5 * values.log())
    else:
        exact = values.double()
        parts = (exact, exact.sqrt(), (1 - exact).sqrt(), 0.5 * exact.log())
    alphas_seen, roots, rests, log_roots = (tuple(part.tolist()) for part in parts)
    return Levels(alphas_seen, roots, rests, log_roots, halved=downcast)


def _zero_terminal_snr(alphas: Tensor) -> Tensor:
    """Shift and scale the square roots: Algorithm 1 of Lin et al. (2023)."""
    roots = alphas.sqrt()
    first, last = roots[0], roots[-1]
    scaled = ((roots - last) * (first / (first - last))) ** 2
    scaled[-1] = TERMINAL_ALPHA
    return scaled
