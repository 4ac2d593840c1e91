"""The steps of DPM-Solver (Lu et al. 2022, DPM-Solver, Algorithms 1 and 2), after k-diffusion.

They predict the noise, epsilon, and walk times: -log sigma, the paper's lambda in the
variance-exploding frame, where its alpha is 1.
"""

from collections.abc import Generator
from dataclasses import dataclass

from torch import Tensor

from sdserver.sampling.run import Evaluations
from sdserver.sampling.samplers import ancestral_step, to_d
from sdserver.sampling.scalars import expm1, sigma_at, sqrt, square, time_of

# Where the intermediate points lie: the paper's r1 and r2.
HALF = 1 / 2
THIRD = 1 / 3
TWO_THIRDS = 2 / 3


@dataclass(frozen=True, slots=True)
class Move:
    """A step in time: from `start` to `solved` by the solver, and by noise of `up` back to `end`."""

    start: float
    end: float
    solved: float
    up: float

    @property
    def sigmas(self) -> tuple[float, float]:
        """The sigmas that the whole move leads from and to."""
        return sigma_at(self.start), sigma_at(self.end)


def overshooting(start: float, end: float, last: float, eta: float) -> Move:
    """The move that adds noise as `ancestral_step` does, solved no further than to the time `last`."""
    if eta == 0:
        return Move(start, end, end, 0.0)
    down, _ = ancestral_step(sigma_at(start), sigma_at(end), eta)
    solved = min(last, time_of(down))
    return Move(start, end, solved, sqrt(square(sigma_at(end)) - square(sigma_at(solved))))


def first_order(x: Tensor, start: float, end: float) -> Evaluations:
    """DPM-Solver-1; one evaluation."""
    eps = yield from _noise_in(x, start)
    return _straight(x, eps, end, end - start)


def second_order(x: Tensor, start: float, end: float) -> Evaluations:
    """DPM-Solver-2; two evaluations."""
    h = end - start
    eps = yield from _noise_in(x, start)
    at = start + HALF * h
    change = (yield from _noise_in(_straight(x, eps, at, HALF * h), at)) - eps
    return _bent(x, eps, change, HALF, end, h)


def third_order(x: Tensor, start: float, end: float) -> Evaluations:
    """DPM-Solver-3; three evaluations."""
    _, high = yield from both_orders(x, start, end)
    return high


def both_orders(
    x: Tensor, start: float, end: float
) -> Generator[tuple[Tensor, float], Tensor, tuple[Tensor, Tensor]]:
    """Where DPM-Solver-2 and DPM-Solver-3 get to, with the same three evaluations."""
    h = end - start
    reach, reach_2 = THIRD * h, TWO_THIRDS * h
    at, at_2 = start + reach, start + reach_2
    eps = yield from _noise_in(x, start)
    change = (yield from _noise_in(_straight(x, eps, at, reach), at)) - eps
    bend = sigma_at(at_2) * (TWO_THIRDS / THIRD) * (expm1(reach_2) / reach_2 - 1)
    x_2 = _straight(x, eps, at_2, reach_2) - change * bend
    change_2 = (yield from _noise_in(x_2, at_2)) - eps
    bend = sigma_at(end) / TWO_THIRDS * (expm1(h) / h - 1)
    return _bent(x, eps, change, THIRD, end, h), _straight(x, eps, end, h) - change_2 * bend


def _noise_in(x: Tensor, time: float) -> Evaluations:
    sigma = sigma_at(time)
    return to_d(x, sigma, (yield x, sigma))


def _straight(x: Tensor, eps: Tensor, end: float, h: float) -> Tensor:
    """Where x gets to in a time of `h`, if the noise in it stays the same."""
    return x - eps * (sigma_at(end) * expm1(h))


def _bent(x: Tensor, eps: Tensor, change: Tensor, share: float, end: float, h: float) -> Tensor:
    """The same, if the noise changed by `change` in the first `share` of the step."""
    return _straight(x, eps, end, h) - change * (sigma_at(end) / (2 * share) * expm1(h))
