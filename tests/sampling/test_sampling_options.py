"""What a job may change about a model's noise levels, its schedules and its solver."""

import math

import numpy as np
import pytest
import torch

from sdserver.errors import InvalidField
from sdserver.jobs.job import UniPC
from sdserver.sampling.beta import beta_quantile, beta_share
from sdserver.sampling.levels import TERMINAL_ALPHA, model_levels
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import make_plan

CPU = torch.device("cpu")
ZERO_SNR = "Zero Terminal SNR"


def _asked(plan, noise_spec, drive):
    """The levels and timesteps that a run asks for."""
    asked = []

    def denoiser(x, sigma):
        asked.append((sigma, plan.timestep(sigma)))
        return x * 0

    noise = ImageNoise(noise_spec(), (1, 2, 2), CPU)
    drive(plan.start(plan.initial(noise.first()), noise), denoiser)
    return asked


def test_zero_terminal_snr_stretches_the_roots_and_keeps_the_first(facts):
    roots = np.sqrt(np.asarray(facts.alphas))
    stretched = (roots - roots[-1]) / (roots[0] - roots[-1]) * roots[0]
    levels = model_levels(facts.alphas, ZERO_SNR)
    np.testing.assert_allclose(levels.roots[:-1], stretched[:-1], atol=1e-6)
    assert levels.alphas[-1] == np.float32(TERMINAL_ALPHA)
    assert levels.alphas[0] == pytest.approx(facts.alphas[0], rel=1e-6)


def test_zero_terminal_snr_reaches_both_kinds_of_samplers(facts, sampling, noise_spec, drive):
    euler = make_plan(sampling("Euler", steps=6, noise_schedule=ZERO_SNR), facts)
    assert euler.sigmas[0] == pytest.approx(4518.7, rel=1e-4)
    ddim = make_plan(sampling("DDIM", steps=6, noise_schedule=ZERO_SNR), facts)
    sigma, timestep = _asked(ddim, noise_spec, drive)[0]
    assert timestep == 997
    assert sigma == pytest.approx(math.sqrt(1 / ddim.levels.alphas[997] - 1))
    assert sigma > 2 * make_plan(sampling("DDIM", steps=6), facts).levels.sigma(997)


def test_downcast_levels_are_half_precision_numbers(facts, sampling):
    plan = make_plan(sampling("Euler", downcast_alphas=True), facts)
    alphas = np.asarray(facts.alphas, np.float16)
    assert plan.levels.alphas == tuple(alphas.tolist())
    assert all(np.float16(number) == number for number in (*plan.levels.rests, *plan.table.sigmas))
    exact = make_plan(sampling("Euler"), facts)
    np.testing.assert_allclose(plan.table.sigmas[50:], exact.table.sigmas[50:], rtol=5e-3)
    assert plan.table.sigmas != exact.table.sigmas


def test_downcast_tables_have_a_timestep_for_every_sigma(facts, sampling):
    table = make_plan(sampling("Euler", downcast_alphas=True), facts).table
    timesteps = [table.timestep(sigma) for sigma in np.geomspace(0.02, 16.0, 500).tolist()]
    assert all(math.isfinite(timestep) for timestep in timesteps)
    assert timesteps == sorted(timesteps)
    assert (timesteps[0], timesteps[-1]) == (pytest.approx(0, abs=2), 999)


def test_half_precision_has_no_sigma_for_a_terminal_snr_of_zero(facts, sampling):
    changes = {"downcast_alphas": True, "noise_schedule": ZERO_SNR}
    with pytest.raises(InvalidField, match="half precision"):
        make_plan(sampling("Euler", **changes), facts)
    assert make_plan(sampling("DDIM", steps=6, **changes), facts).evaluations == 6


def test_quantised_timesteps_are_the_nearest_whole_ones(facts, sampling, noise_spec, drive):
    exact, rounded = (
        _asked(make_plan(sampling("DPM++ 2M", quantize=quantize), facts), noise_spec, drive)
        for quantize in (False, True)
    )
    assert [sigma for sigma, _ in exact] == [sigma for sigma, _ in rounded]
    assert any(timestep % 1 for _, timestep in exact)
    for (_, timestep), (_, whole) in zip(exact, rounded, strict=True):
        assert whole == int(whole)
        assert abs(whole - timestep) <= 0.5


def test_old_karras_limits_hold_unless_others_are_given(facts, sampling):
    old = make_plan(sampling("Euler", schedule="Karras", old_karras=True), facts).sigmas
    assert (old[0], old[-2]) == (pytest.approx(10.0), pytest.approx(0.1))
    both = make_plan(sampling("Euler", schedule="Karras", old_karras=True, sigma_max=8.0), facts).sigmas
    assert (both[0], both[-2]) == (pytest.approx(8.0), pytest.approx(0.1))
    whole_table = make_plan(sampling("Euler", schedule="Uniform", old_karras=True), facts).sigmas
    assert whole_table == make_plan(sampling("Euler", schedule="Uniform"), facts).sigmas


def test_timestep_samplers_count_a_discarded_step(facts, sampling):
    assert make_plan(sampling("DDIM", discard_penultimate=True), facts).timesteps == (
        make_plan(sampling("DDIM", steps=21), facts).timesteps
    )


@pytest.mark.parametrize(
    ("alpha", "beta", "quantile"),
    [
        (1.0, 1.0, lambda share: share),
        (2.5, 1.0, lambda share: share**0.4),
        (1.0, 3.0, lambda share: 1 - (1 - share) ** (1 / 3)),
        (0.1, 1.0, lambda share: share**10),
        (0.5, 0.5, lambda share: math.sin(math.pi * share / 2) ** 2),
    ],
)
@pytest.mark.parametrize("share", [1e-5, 0.03, 0.4, 0.5, 0.83, 0.9999])
def test_beta_quantiles_of_any_parameters(alpha, beta, quantile, share):
    assert beta_quantile(share, alpha, beta) == pytest.approx(quantile(share), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("alpha", [0.05, 0.6, 2.0, 40.0])
@pytest.mark.parametrize("beta", [0.05, 0.6, 2.0, 40.0])
def test_beta_quantiles_are_inverse_to_the_distribution(alpha, beta):
    for share in (0.05, 0.3, 0.5, 0.8, 0.95):
        value = beta_quantile(share, alpha, beta)
        if 0 < value < 1 - 1e-6:
            assert beta_share(value, alpha, beta) == pytest.approx(share, abs=1e-9)


def test_the_schedule_beta_takes_the_jobs_parameters(facts, sampling):
    flat = make_plan(sampling("Euler", schedule="Beta", beta_alpha=1.0, beta_beta=1.0), facts).sigmas
    np.testing.assert_allclose(np.diff(flat[:-1]), flat[1] - flat[0], rtol=1e-5)
    low = make_plan(sampling("Euler", schedule="Beta", beta_alpha=0.6, beta_beta=1.4), facts).sigmas
    assert np.median(low) < np.median(flat) / 2
    with pytest.raises(InvalidField, match="above 0"):
        make_plan(sampling("Euler", schedule="Beta", beta_alpha=0.0), facts)


@pytest.mark.parametrize("skip_type", ["time_uniform", "time_quadratic", "logSNR"])
def test_unipc_asks_for_the_timesteps_of_its_kind(facts, sampling, noise_spec, drive, skip_type):
    plan = make_plan(sampling("UniPC", steps=8, unipc=UniPC(skip_type=skip_type)), facts)
    asked = _asked(plan, noise_spec, drive)
    timesteps = np.array([timestep for _, timestep in asked])
    assert timesteps[0] == 999
    if skip_type == "logSNR":
        logs = np.log([sigma for sigma, _ in asked])
        np.testing.assert_allclose(np.diff(logs), logs[1] - logs[0], rtol=1e-4)
    else:
        times = (timesteps + 1) ** (0.5 if skip_type == "time_quadratic" else 1)
        np.testing.assert_allclose(np.diff(times), times[1] - times[0], rtol=1e-4)


@pytest.mark.parametrize(("order", "is_final"), [(1, True), (2, True), (3, False), (7, True)])
def test_unipc_of_any_order_evaluates_once_a_step(facts, sampling, order, is_final):
    options = UniPC(order=order, lower_order_final=is_final)
    for steps in (1, 2, 5, 8):
        assert make_plan(sampling("UniPC", steps=steps, unipc=options), facts).evaluations == steps
