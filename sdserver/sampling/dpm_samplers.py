"""The DPM-Solver family on sigmas, after k-diffusion and as AUTOMATIC1111 runs it.

Conventions are those of `sampling.samplers`. The papers' lambda is -log sigma here.
"""

import math
from itertools import pairwise

from torch import Tensor

from sdserver.sampling.run import Evaluations, SigmaRun
from sdserver.sampling.samplers import ancestral_step, float32, to_d


def dpmpp_2m(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver++(2M): Lu et al. (2022), DPM-Solver++, Algorithm 2."""
    before: tuple[Tensor, float] | None = None
    for sigma, sigma_next in pairwise(run.sigmas):
        denoised = yield x, sigma
        ratio = sigma_next / sigma
        target = denoised
        if before is not None and sigma_next > 0:
            share = math.log(sigma / sigma_next) / (2 * math.log(before[1] / sigma))
            target = denoised + (denoised - before[0]) * share
        x = x * ratio + target * (1 - ratio)
        before = denoised, sigma
    return x


def dpmpp_2s_ancestral(x: Tensor, run: SigmaRun) -> Evaluations:
    """DPM-Solver++(2S) (Lu et al. 2022, Algorithm 1) that overshoots and adds noise."""
    for sigma, sigma_next in pairwise(run.sigmas):
        down, up = ancestral_step(sigma, sigma_next, run.eta)
        denoised = yield x, sigma
        if down > 0:
            middle = math.sqrt(sigma * down)
            x_middle = x * (middle / sigma) + denoised * (1 - middle / sigma)
            denoised = yield x_middle, middle
        x = x * (down / sigma) + denoised * (1 - down / sigma)
        if sigma_next > 0:
            x = x + run.noise(sigma, sigma_next) * (run.noise_scale * up)
    return x


def dpmpp_sde(x: Tensor, run: SigmaRun) -> Evaluations:
    """The stochastic DPM-Solver++ of second order, single-step: Lu et al. (2022); Crowson (2022).

    Times are rounded to float32 as in k-diffusion, because the Brownian tree tells them apart.
    """
    for sigma, sigma_next in pairwise(run.sigmas):
        denoised = yield x, sigma
        if sigma_next == 0:
            return denoised
        start, end = float32(-math.log(sigma)), float32(-math.log(sigma_next))
        half = float32(start + float32(float32(end - start) * 0.5))
        at, middle, after = (float32(math.exp(-time)) for time in (start, half, end))
        down, up = ancestral_step(at, middle, run.eta)
        x_middle = x * (down / at) + denoised * (1 - down / at)
        x_middle = x_middle + run.noise(at, middle) * (run.noise_scale * up)
        denoised = yield x_middle, middle
        down, up = ancestral_step(at, after, run.eta)
        x = x * (down / at) + denoised * (1 - down / at)
        x = x + run.noise(at, after) * (run.noise_scale * up)
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
        h = math.log(sigma / sigma_next)
        h_eta = h * (run.eta + 1)
        x = x * math.exp(-h_eta) - denoised * math.expm1(-h_eta)
        phi_2 = math.expm1(-h_eta) / h_eta + 1
        if len(past) == 1:
            x = x + (denoised - past[0][0]) * (phi_2 * h / past[0][1])
        elif past:
            (last, h_1), (older, h_2) = past
            r0, r1 = h_1 / h, h_2 / h
            slope, slope_before = (denoised - last) / r0, (last - older) / r1
            curve = (slope - slope_before) / (r0 + r1)
            x = x + (slope + curve * r0) * phi_2 - curve * (phi_2 / h_eta - 0.5)
        if run.eta:
            x = x + run.noise(sigma, sigma_next) * _sde_noise(sigma_next, h, run)
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
    first, last = -math.log(run.sigma_max), -math.log(run.sigma_min)
    times = [first + (last - first) * step / count for step in range(count + 1)]
    for order, (time, time_next) in zip(orders, pairwise(times), strict=True):
        sigma, sigma_next = math.exp(-time), math.exp(-time_next)
        down, _ = ancestral_step(sigma, sigma_next, run.eta)
        down = max(down, run.sigma_min)
        up = math.sqrt(max(sigma_next**2 - down**2, 0.0))
        x = yield from _dpm_solver_step(x, sigma, down, order)
        x = x + run.noise(sigma, sigma_next) * (run.noise_scale * up)
    return x


def _dpmpp_2m_sde(x: Tensor, run: SigmaRun, is_heun: bool) -> Evaluations:
    before: tuple[Tensor, float] | None = None
    for sigma, sigma_next in pairwise(run.sigmas):
        denoised = yield x, sigma
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        h_eta = h * (run.eta + 1)
        x = x * math.exp(-h_eta) - denoised * math.expm1(-h_eta)
        if before is not None:
            weight = math.expm1(-h_eta) / h_eta + 1 if is_heun else -0.5 * math.expm1(-h_eta)
            x = x + (denoised - before[0]) * (weight * h / before[1])
        if run.eta:
            x = x + run.noise(sigma, sigma_next) * _sde_noise(sigma_next, h, run)
        before = denoised, h
    return x


def _sde_noise(sigma_next: float, h: float, run: SigmaRun) -> float:
    return run.noise_scale * sigma_next * math.sqrt(max(-math.expm1(-2 * h * run.eta), 0.0))


def _dpm_solver_step(x: Tensor, sigma: float, sigma_next: float, order: int) -> Evaluations:
    """One step of DPM-Solver-1, -2 or -3 (Lu et al. 2022, Algorithms 1 and 2), in epsilon."""
    h = math.log(sigma / sigma_next)
    eps = to_d(x, sigma, (yield x, sigma))
    end = x - eps * (sigma_next * math.expm1(h))
    if order == 1:
        return end
    share = 1 / order
    at = sigma * math.exp(-share * h)
    x_1 = x - eps * (at * math.expm1(share * h))
    change = to_d(x_1, at, (yield x_1, at)) - eps
    if order == 2:
        return end - change * (sigma_next * math.expm1(h))
    at = sigma * math.exp(-2 * share * h)
    bend = math.expm1(2 * share * h) / (2 * share * h) - 1
    x_2 = x - eps * (at * math.expm1(2 * share * h)) - change * (at * 2 * bend)
    change = to_d(x_2, at, (yield x_2, at)) - eps
    return end - change * (1.5 * sigma_next * (math.expm1(h) / h - 1))
