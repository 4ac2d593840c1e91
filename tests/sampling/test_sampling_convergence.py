"""Orders of convergence and end distributions, on data whose ideal denoiser is known.

For data of N(0, s^2) it is D(x, sigma) = x s^2 / (s^2 + sigma^2), and the probability flow takes x from
sigma_0 to sigma by the factor sqrt((s^2 + sigma^2) / (s^2 + sigma_0^2)).
"""

import math

import numpy as np
import pytest
import torch

from sdserver.jobs.job import UniPC
from sdserver.sampling import dpm_adaptive, dpm_samplers, samplers, timestep_samplers, unipc
from sdserver.sampling.guidance import Guided
from sdserver.sampling.levels import Levels
from sdserver.sampling.plan import ddim_timesteps
from sdserver.sampling.run import SigmaRun, TimestepRun
from sdserver.sampling.sigmas import karras_sigmas

STD = 0.8
FIRST, LAST = 10.0, 0.1

# Multistep samplers start, and DPM fast and UniPC end, with lower orders, which caps theirs at 2.
ORDERS = {
    samplers.euler: 1,
    samplers.euler_ancestral: 1,
    samplers.heun: 2,
    samplers.dpm_2: 2,
    samplers.dpm_2_ancestral: 2,
    samplers.lms: 2,
    samplers.restart: 2,
    dpm_samplers.dpmpp_2m: 2,
    dpm_samplers.dpmpp_2s_ancestral: 2,
    dpm_samplers.dpmpp_sde: 2,
    dpm_samplers.dpmpp_2m_sde: 2,
    dpm_samplers.dpmpp_2m_sde_heun: 2,
    dpm_samplers.dpmpp_3m_sde: 2,
    dpm_samplers.dpm_fast: 2,
    timestep_samplers.ddim: 1,
    timestep_samplers.ddim_cfgpp: 1,
    timestep_samplers.plms: 2,
    unipc.unipc: 2,
}

TIMESTEP = (timestep_samplers.ddim, timestep_samplers.ddim_cfgpp, timestep_samplers.plms, unipc.unipc)


def _ideal(x, sigma):
    return x * (STD**2 / (STD**2 + sigma**2))


def _flow(first, last):
    return math.sqrt((STD**2 + last**2) / (STD**2 + first**2))


def _no_noise(_sigma, _sigma_next):
    return torch.zeros(1, 1, 1, dtype=torch.float64)


def _sigma_error(sampler, steps, drive):
    sigmas = tuple(np.geomspace(FIRST, LAST, steps + 1).tolist())
    run = SigmaRun(sigmas, _no_noise, steps, sigma_min=LAST, sigma_max=FIRST, eta=0.0)
    x = torch.ones(1, 1, 1, dtype=torch.float64)
    return abs(drive(sampler(x, run), _ideal).item() - _flow(FIRST, LAST))


def _ideal_guided(x, sigma):
    return Guided(_ideal(x, sigma), _ideal(x, sigma))


def _timestep_error(sampler, steps, drive, levels):
    timesteps = ddim_timesteps(steps, len(levels.alphas))
    run = TimestepRun(timesteps, levels, _no_noise)
    # UniPC walks a grid of its own: from the very last timestep to the very first.
    is_unipc = sampler is unipc.unipc
    top, bottom = (len(levels.alphas) - 1, 0) if is_unipc else (timesteps[-1], timesteps[0])
    x = torch.full((1, 1, 1), levels.roots[top], dtype=torch.float64)
    expected = _flow(levels.sigma(top), levels.sigma(bottom)) * levels.roots[bottom]
    denoiser = _ideal_guided if sampler is timestep_samplers.ddim_cfgpp else _ideal
    return abs(drive(sampler(x, run), denoiser).item() - expected)


@pytest.fixture
def smooth():
    """20000 timesteps of a variance-preserving process, evenly spaced in log sigma."""
    alphas = 1 / (1 + np.geomspace(0.2, 5.0, 20_000) ** 2)
    parts = (alphas, np.sqrt(alphas), np.sqrt(1 - alphas), 0.5 * np.log(alphas))
    return Levels(*(tuple(part.tolist()) for part in parts))


@pytest.mark.parametrize("sampler", ORDERS, ids=lambda sampler: sampler.__name__)
def test_order_of_convergence(drive, smooth, sampler):
    errors = []
    for steps in (36, 72, 144):
        if sampler in TIMESTEP:
            errors.append(_timestep_error(sampler, steps, drive, smooth))
        elif sampler is samplers.restart:
            errors.append(_sigma_error(sampler, steps // 9, drive))
        else:
            errors.append(_sigma_error(sampler, steps, drive))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders[-1] > ORDERS[sampler] - 0.3
    assert errors[-1] < 0.03


def test_multistep_samplers_beat_their_lower_orders(drive):
    """Third order shows in the size of the error, where the start hides it in the slope."""
    second = _sigma_error(dpm_samplers.dpmpp_2m, 36, drive)
    assert _sigma_error(dpm_samplers.dpmpp_3m_sde, 36, drive) < second / 2
    assert _sigma_error(samplers.lms, 36, drive) < _sigma_error(samplers.euler, 36, drive) / 50


def test_dpm_fast_is_of_third_order_before_its_last_steps(drive):
    """With 1 mod 3 steps only the last, tiny step is of first order."""
    coarse, fine = (_sigma_error(dpm_samplers.dpm_fast, steps, drive) for steps in (10, 19))
    assert fine < coarse / 3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dpm_adaptive_keeps_the_error_within_its_tolerance(drive, normal, eta):
    """Its tolerances are 5 % and 0.0078 a step; the noise that it adds leaves the distribution."""
    run = SigmaRun((), normal, 0, sigma_min=LAST, sigma_max=FIRST, eta=eta)
    x = normal() * math.sqrt(STD**2 + FIRST**2)
    result = drive(dpm_adaptive.dpm_adaptive(x, run), _ideal)
    if eta == 0:
        torch.testing.assert_close(result, x * _flow(FIRST, LAST), rtol=0.05, atol=0.0)
    assert result.std().item() == pytest.approx(math.sqrt(STD**2 + LAST**2), rel=0.06)


@pytest.mark.parametrize("variant", ["bh1", "bh2", "vary_coeff"])
@pytest.mark.parametrize("skip_type", ["time_uniform", "time_quadratic", "logSNR"])
def test_every_kind_of_unipc_converges(drive, smooth, variant, skip_type):
    """The authors' corrector with varying coefficients is of first order, whatever order is asked for."""
    for order in (1, 2, 3, 4):
        for is_lower_final in (True, False):
            options = UniPC(variant, skip_type, order, is_lower_final)
            errors = [_unipc_error(steps, drive, smooth, options) for steps in (12, 96)]
            assert errors[1] < errors[0] / 5
            assert errors[1] < (1e-5 if order > 1 and variant != "vary_coeff" else 2e-3)


def _unipc_error(steps, drive, levels, options):
    run = TimestepRun(ddim_timesteps(steps, len(levels.alphas)), levels, _no_noise, unipc=options)
    x = torch.full((1, 1, 1), levels.roots[-1], dtype=torch.float64)
    expected = _flow(levels.sigma(-1), levels.sigma(0)) * levels.roots[0]
    return abs(drive(unipc.unipc(x, run), _ideal).item() - expected)


NOISY = [
    samplers.euler_ancestral,
    samplers.dpm_2_ancestral,
    samplers.restart,
    samplers.euler,
    samplers.heun,
    dpm_samplers.dpmpp_2s_ancestral,
    dpm_samplers.dpmpp_sde,
    dpm_samplers.dpmpp_2m_sde,
    dpm_samplers.dpmpp_2m_sde_heun,
    dpm_samplers.dpmpp_3m_sde,
]


@pytest.fixture
def normal():
    generator = np.random.default_rng(7)

    def draw(_sigma=0.0, _sigma_next=0.0):
        return torch.from_numpy(generator.standard_normal((1, 150, 150)))

    return draw


@pytest.mark.parametrize("sampler", NOISY, ids=lambda sampler: sampler.__name__)
def test_added_noise_leaves_the_datas_distribution(drive, normal, sampler):
    sigmas = karras_sigmas(300, 0.03, 14.0)
    run = SigmaRun(sigmas, normal, 300, sigma_min=0.03, sigma_max=14.0, eta=1.0, churn=20.0)
    result = drive(sampler(normal() * math.sqrt(STD**2 + sigmas[0] ** 2), run), _ideal)
    assert result.std().item() == pytest.approx(STD, rel=0.04)
    assert abs(result.mean().item()) < 0.03


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sampler", [timestep_samplers.ddim, timestep_samplers.ddim_cfgpp])
def test_ddim_leaves_the_datas_distribution(drive, normal, smooth, eta, sampler):
    timesteps = ddim_timesteps(500, len(smooth.alphas))
    run = TimestepRun(timesteps, smooth, normal, eta)
    denoiser = _ideal_guided if sampler is timestep_samplers.ddim_cfgpp else _ideal

    def std(timestep):
        return math.sqrt(smooth.alphas[timestep] * STD**2 + 1 - smooth.alphas[timestep])

    result = drive(sampler(normal() * std(timesteps[-1]), run), denoiser)
    assert result.std().item() == pytest.approx(std(timesteps[0]), rel=0.02)
