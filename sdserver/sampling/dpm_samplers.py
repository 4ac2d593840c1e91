"""The DPM-Solver family on sigmas, after k-diffusion and as AUTOMATIC1111 runs it.

Conventions are those of `sampling.samplers`. Times are -log sigma, the papers' lambda. Factors are
put together in k-diffusion's order, which decides the last digit.
"""

from itertools import pairwise

import torch
from torch import Tensor

from sdserver.sampling.dpm_solver import first_order, overshooting, second_order, third_order
from sdserver.sampling.run import Evaluations, SigmaRun
from sdserver.sampling.samplers import ancestral_step, to_d
from sdserver.sampling.scalars import exp, expm1, float32, sigma_at, sqrt, time_of

SOLVERS = (first_order, second_order, third_order)


def dpmpp_2m(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver++(2M): Lu et al. (2022), DPM-Solver++, Algorithm 2."""
    before: tuple[Tensor, float] | None = None
    for sigma, sigma_next in pairwise(run.sigmas):
        denoised = yield x, sigma
        time, time_next = time_of(sigma), time_of(sigma_next)
        h = time_next - time
        target = denoised
        if before is not None and sigma_next > 0:
            share = 1 / (2 * (before[1] / h))
            target = denoised * (1 + share) - before[0] * share
        x = _towards(x, target, sigma_at(time_next) / sigma_at(time), h)
        before = denoised, h
    return x


def dpmpp_2s_ancestral(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver++(2S) (Lu et al. 2022, Algorithm 1) that overshoots and adds noise."""
    for sigma, sigma_next in pairwise(run.sigmas):
        down, up = ancestral_step(sigma, sigma_next, run.eta)
        denoised = yield x, sigma
        if down == 0:
            x = _to_the_end(x, sigma, denoised)
        else:
            time, time_down = time_of(sigma), time_of(down)
            h = time_down - time
            at, middle, after = (sigma_at(point) for point in (time, time + 0.5 * h, time_down))
            x_middle = _towards(x, denoised, middle / at, 0.5 * h)
            x = _towards(x, (yield x_middle, middle), after / at, h)
        if sigma_next > 0:
            x = x + run.noise(sigma, sigma_next) * run.noise_scale * up
    return x


def dpmpp_sde(x: Tensor, run: SigmaRun) -> Evaluations:
    """The stochastic DPM-Solver++ of second order, single-step: Lu et al. (2022); Crowson (2022).

    Times and sigmas have k-diffusion's precision, which the Brownian tree tells from a higher one:
    float32 as in AUTOMATIC1111, and float64 where x has it.
    """
    rounded = float if x.dtype == torch.float64 else float32
    for sigma, sigma_next in pairwise(run.sigmas):
        denoised = yield x, sigma
        if sigma_next == 0:
            return _to_the_end(x, sigma, denoised)
        start, end = rounded(time_of(sigma)), rounded(time_of(sigma_next))
        half = rounded(start + rounded(rounded(end - start) * 0.5))
        at, middle, after = (rounded(sigma_at(time)) for time in (start, half, end))
        x_middle = _stochastic_step(x, denoised, start, (at, middle), run)
        denoised = yield x_middle, middle
        x = _stochastic_step(x, denoised, start, (at, after), run)
    return x


def dpmpp_2m_sde(x: Tensor, run: SigmaRun) -> Evaluations:
    """SDE-DPM-Solver++(2M), midpoint: Lu et al. (2022), appendix; Crowson (2023)."""
    return (yield from _dpmpp_2m_sde(x, run, is_heun=False))


def dpmpp_2m_sde_heun(x: Tensor, run: SigmaRun) -> Evaluations:
    """SDE-DPM-Solver++(2M) with Heun's weights: Lu et al. (2022), appendix; Crowson (2023)."""
    return (yield from _dpmpp_2m_sde(x, run, is_heun=True))


def dpmpp_3m_sde(x: Tensor, run: SigmaRun) -> Evaluations:
    """SDE-DPM-Solver++(3M): Crowson (2023), after Lu et al. (2022)."""
    past: list[tuple[Tensor, float]] = []
    for sigma, sigma_next in pairwise(run.sigmas):
        denoised = yield x, sigma
        if sigma_next == 0:
            return denoised
        h = time_of(sigma_next) - time_of(sigma)
        h_eta = h * (run.eta + 1)
        x = _towards(x, denoised, exp(-h_eta), h_eta)
        phi_2 = expm1(-h_eta) / h_eta + 1
        if len(past) == 1:
            x = x + (denoised - past[0][0]) / (past[0][1] / h) * phi_2
        elif past:
            (last, h_1), (older, h_2) = past
            r0, r1 = h_1 / h, h_2 / h
            slope, slope_before = (denoised - last) / r0, (last - older) / r1
            bend = slope - slope_before
            slope, curve = slope + bend * r0 / (r0 + r1), bend / (r0 + r1)
            x = x + slope * phi_2 - curve * (phi_2 / h_eta - 0.5)
        if run.eta:
            x = x + _sde_noise(sigma, sigma_next, h * run.eta, run)
        past = [(denoised, h), *past[:1]]
    return x


def dpm_fast(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver-fast: Lu et al. (2022), DPM-Solver, section 3.4.

    Ignores the schedule: third-order steps, evenly spaced in log sigma from the model's largest to
    its smallest sigma, where it ends; as many evaluations as `steps`.
    """
    count = run.steps // 3 + 1
    rest = run.steps % 3
    orders = [3] * (count - 1) + [rest] if rest else [3] * (count - 2) + [2, 1]
    first, last = time_of(run.sigma_max), time_of(run.sigma_min)
    times = torch.linspace(first, last, count + 1, dtype=torch.float64, device="cpu").tolist()
    for order, (time, time_next) in zip(orders, pairwise(times), strict=True):
        move = overshooting(time, time_next, last, run.eta)
        x = yield from SOLVERS[order - 1](x, time, move.solved)
        x = x + run.noise(*move.sigmas) * (move.up * run.noise_scale)
    return x


def _dpmpp_2m_sde(x: Tensor, run: SigmaRun, is_heun: bool) -> Evaluations:
    before: tuple[Tensor, float] | None = None
    for sigma, sigma_next in pairwise(run.sigmas):
        denoised = yield x, sigma
        if sigma_next == 0:
            return denoised
        h = time_of(sigma_next) - time_of(sigma)
        eta_h = run.eta * h
        h_eta = h + eta_h
        x = _towards(x, denoised, sigma_next / sigma * exp(-eta_h), h_eta)
        if before is not None:
            weight = expm1(-h_eta) / h_eta + 1 if is_heun else -0.5 * expm1(-h_eta)
            x = x + (denoised - before[0]) * (weight * (1 / (before[1] / h)))
        if run.eta:
            x = x + _sde_noise(sigma, sigma_next, eta_h, run)
        before = denoised, h
    return x


def _towards(x: Tensor, denoised: Tensor, ratio: float, h: float) -> Tensor:
    """DPM-Solver++-1: x at `ratio` of its sigma, a time `h` later, if the denoised latent stays."""
    return x * ratio - denoised * expm1(-h)


def _to_the_end(x: Tensor, sigma: float, denoised: Tensor) -> Tensor:
    """The denoised latent, by the Euler step that AUTOMATIC1111 takes there, with its rounding."""
    return x - to_d(x, sigma, denoised) * sigma


def _stochastic_step(
    x: Tensor, denoised: Tensor, start: float, sigmas: tuple[float, float], run: SigmaRun
) -> Tensor:
    """One overshooting step from the time `start`, whose sigma is the first, to the second sigma."""
    down, up = ancestral_step(*sigmas, run.eta)
    solved = time_of(down)
    x = _towards(x, denoised, sigma_at(solved) / sigmas[0], solved - start)
    return x + run.noise(*sigmas) * run.noise_scale * up


def _sde_noise(sigma: float, sigma_next: float, eta_h: float, run: SigmaRun) -> Tensor:
    spread = sqrt(-expm1(-2 * eta_h))
    return run.noise(sigma, sigma_next) * sigma_next * spread * run.noise_scale
