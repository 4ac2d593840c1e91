"""Samplers that walk sigmas, after k-diffusion and as AUTOMATIC1111 runs them.

Each works on one image: x is (channels, height, width) in the variance-exploding frame. Noise is drawn
at the places where AUTOMATIC1111 draws it, since the place decides the values; but runs that use none draw
none. Factors are put together in k-diffusion's order, which decides the last digit.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from sdserver.sampling.quadrature import integral
from sdserver.sampling.run import Evaluations, SigmaRun
from sdserver.sampling.scalars import exp, log, sqrt, square
from sdserver.sampling.sigmas import karras_sigmas

LMS_ORDER = 4


def euler(x: Tensor, run: SigmaRun) -> Evaluations:
    """Euler steps: Algorithm 2 of Karras et al. (2022) without its second order."""
    for sigma, sigma_next in pairwise(run.sigmas):
        x, sigma_hat = _churned(x, sigma, sigma_next, run)
        x = x + to_d(x, sigma_hat, (yield x, sigma_hat)) * (sigma_next - sigma_hat)
    return x


def euler_ancestral(x: Tensor, run: SigmaRun) -> Evaluations:
    """Euler steps that overshoot and add noise: the ancestral sampling of Song et al. (2020), DDIM."""
    for sigma, sigma_next in pairwise(run.sigmas):
        down, up = ancestral_step(sigma, sigma_next, run.eta)
        x = x + to_d(x, sigma, (yield x, sigma)) * (down - sigma)
        if sigma_next > 0:
            x = x + run.noise(sigma, sigma_next) * up
    return x


def heun(x: Tensor, run: SigmaRun) -> Evaluations:
    """Heun steps: Algorithm 2 of Karras et al. (2022)."""
    for sigma, sigma_next in pairwise(run.sigmas):
        x, sigma_hat = _churned(x, sigma, sigma_next, run)
        x = yield from _heun_step(x, sigma_hat, sigma_next)
    return x


def dpm_2(x: Tensor, run: SigmaRun) -> Evaluations:
    """Midpoint steps in log sigma: DPM-Solver-2 of Lu et al. (2022), with Karras' churn."""
    for sigma, sigma_next in pairwise(run.sigmas):
        x, sigma_hat = _churned(x, sigma, sigma_next, run)
        x = yield from _midpoint_step(x, sigma_hat, sigma_next)
    return x


def dpm_2_ancestral(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver-2 (Lu et al. 2022) that overshoots and adds noise."""
    for sigma, sigma_next in pairwise(run.sigmas):
        down, up = ancestral_step(sigma, sigma_next, run.eta)
        x = yield from _midpoint_step(x, sigma, down)
        if down > 0:
            x = x + run.noise(sigma, sigma_next) * run.noise_scale * up
    return x


def lms(x: Tensor, run: SigmaRun) -> Evaluations:
    """Linear multistep of order 4: Adams-Bashforth on sigmas at any distance (Crowson 2022)."""
    slopes: list[Tensor] = []
    for step, (sigma, sigma_next) in enumerate(pairwise(run.sigmas)):
        slopes = [to_d(x, sigma, (yield x, sigma)), *slopes[: LMS_ORDER - 1]]
        nodes = run.sigmas[step + 1 - len(slopes) : step + 1][::-1]
        weights = [integral(_lagrange(nodes, index), sigma, sigma_next) for index in range(len(nodes))]
        x = x + sum(slope * weight for slope, weight in zip(slopes, weights, strict=True))
    return x


def restart(x: Tensor, run: SigmaRun) -> Evaluations:
    """Heun steps that go back to a higher noise level: Restart sampling of Xu et al. (2023)."""
    last: float | None = None
    for sigma, sigma_next in restart_steps(run.sigmas):
        if last is not None and last < sigma:
            x = x + run.noise(last, sigma) * sqrt(square(sigma) - square(last))
        x = yield from _heun_step(x, sigma, sigma_next)
        last = sigma_next
    return x


def lcm(x: Tensor, run: SigmaRun) -> Evaluations:
    """Jumps to the denoised latent and back to the next noise level: Luo et al. (2023), LCM.

    The boundary condition of consistency models is left out: at timestep 19, the lowest in use, it
    would weigh x with 7e-6.
    """
    for sigma, sigma_next in pairwise(run.sigmas):
        x = yield x, sigma
        if sigma_next > 0:
            x = x + run.noise(sigma, sigma_next) * sigma_next
    return x


def to_d(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
    """The slope dx / dsigma of the probability flow; Karras et al. (2022), equation 1."""
    return (x - denoised) / sigma


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """The sigma to step down to and the noise to add so as to arrive at `sigma_next`."""
    if eta == 0:
        return sigma_next, 0.0
    variance = square(sigma_next) * (square(sigma) - square(sigma_next)) / square(sigma)
    up = min(sigma_next, eta * sqrt(variance))
    return sqrt(square(sigma_next) - square(up)), up


def restart_steps(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """The steps of Restart sampling over a schedule, as AUTOMATIC1111 chooses them.

    From 20 steps on, 9 of them (from 36 on, twice a quarter) are spent on walking the range from about
    2 to about 0.1 again; the rest walk a Karras schedule of their own.
    """
    steps = len(sigmas) - 1
    if steps < 20:
        return list(pairwise(sigmas))
    length, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    base = karras_sigmas(steps - length * times, sigmas[-2], sigmas[0])
    low, high = _nearest(base, 0.1), _nearest(base, 2.0)
    again = list(pairwise(karras_sigmas(length + 1, base[low], base[high])[:-1]))
    walked = list(pairwise(base))
    return walked[:low] + again * (times if high < low else 0) + walked[low:]


def _nearest(sigmas: Sequence[float], target: float) -> int:
    return min(range(len(sigmas)), key=lambda index: abs(sigmas[index] - target))


def _churned(x: Tensor, sigma: float, sigma_next: float, run: SigmaRun) -> tuple[Tensor, float]:
    """Raise the noise level before a step; Karras et al. (2022), Algorithm 2.

    A run that churns draws at every step, those that stay as they are among them.
    """
    if run.churn <= 0:
        return x, sigma
    noise = run.noise(sigma, sigma_next)
    if not run.churn_min <= sigma <= run.churn_max:
        return x, sigma
    sigma_hat = sigma * (min(run.churn / (len(run.sigmas) - 1), math.sqrt(2) - 1) + 1)
    return x + noise * run.noise_scale * sqrt(square(sigma_hat) - square(sigma)), sigma_hat


def _heun_step(x: Tensor, sigma: float, sigma_next: float) -> Evaluations:
    d = to_d(x, sigma, (yield x, sigma))
    x_next = x + d * (sigma_next - sigma)
    if sigma_next == 0:
        return x_next
    d_next = to_d(x_next, sigma_next, (yield x_next, sigma_next))
    return x + (d + d_next) * (0.5 * (sigma_next - sigma))


def _midpoint_step(x: Tensor, sigma: float, sigma_next: float) -> Evaluations:
    d = to_d(x, sigma, (yield x, sigma))
    if sigma_next == 0:
        return x - d * sigma
    log_next = log(sigma_next)
    middle = exp(log_next - (log_next - log(sigma)) * 0.5)
    x_middle = x + d * (middle - sigma)
    return x + to_d(x_middle, middle, (yield x_middle, middle)) * (sigma_next - sigma)


def _lagrange(nodes: Sequence[float], index: int) -> Callable[[float], float]:
    """Lagrange's basis polynomial, 1 at the node of this index and 0 at the others."""

    def basis(at: float) -> float:
        others = (node for other, node in enumerate(nodes) if other != index)
        return math.prod((at - node) / (nodes[index] - node) for node in others)

    return basis
