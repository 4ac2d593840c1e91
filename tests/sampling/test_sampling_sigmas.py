import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sdserver.errors import InvalidField
from sdserver.sampling.beta import beta_quantile
from sdserver.sampling.levels import model_levels
from sdserver.sampling.plan import ddim_timesteps, make_plan
from sdserver.sampling.sigmas import SCHEDULES, Grid, build, lcm_table, model_table

# AUTOMATIC1111's own table differs by a last digit from machine to machine.
LAST_DIGITS = 5e-7


@pytest.fixture
def table(facts):
    return model_table(model_levels(facts.alphas))


def _grid(table, **changes):
    return Grid(**({"steps": 10, "table": table, "sigma_min": table.sigmas[0], "sigma_max": table.sigmas[-1],
                    "rho": 7.0, "sdxl": False} | changes))  # fmt: skip


def test_the_models_table(goldens, table):
    with np.load(goldens / "sigmas.npz") as arrays:
        np.testing.assert_allclose(table.sigmas, arrays["model_sigmas"], rtol=LAST_DIGITS)


def test_every_schedule_equals_automatic1111s(goldens, facts, sampling):
    compared = set()
    with np.load(goldens / "sigmas.npz") as arrays:
        for key in arrays.files:
            *family, sampler, schedule, steps = key.rsplit("|", 3) if key.count("|") > 1 else ("", "", "")
            if not sampler or schedule == "timesteps":
                continue
            model = dataclasses.replace(facts, family="sdxl") if family else facts
            plan = make_plan(sampling(sampler, schedule=schedule, steps=int(steps)), model)
            np.testing.assert_allclose(plan.sigmas, arrays[key], rtol=LAST_DIGITS, err_msg=key)
            assert len(plan.sigmas) == len(arrays[key])
            compared.add(schedule)
    assert len(compared) == 12


def test_the_default_schedules_are_equal_to_the_last_bit(goldens, facts, sampling):
    """A Brownian tree tells apart sigmas that differ by 1e-6."""
    with np.load(goldens / "sigmas.npz") as arrays:
        for schedule in ("Karras", "Exponential"):
            for steps in (6, 10, 20):
                plan = make_plan(sampling("DPM++ 2M", schedule=schedule, steps=steps), facts)
                expected = arrays[f"DPM++ 2M|{schedule}|{steps}"]
                assert np.array_equal(np.asarray(plan.sigmas, dtype=np.float32), expected)


@pytest.mark.parametrize("steps", [6, 10, 20])
def test_ddim_timesteps_equal_automatic1111s(goldens, steps):
    with np.load(goldens / "sigmas.npz") as arrays:
        assert list(ddim_timesteps(steps, 1000)) == arrays[f"DDIM|timesteps|{steps}"].tolist()


@pytest.mark.parametrize("steps", [0, 1001])
def test_ddim_timesteps_out_of_range(steps):
    with pytest.raises(InvalidField, match="1 to 1000"):
        ddim_timesteps(steps, 1000)


def test_every_entrys_timestep_is_its_index(table):
    assert [table.timestep(sigma) for sigma in table.sigmas] == list(range(1000))


def test_timestep_and_sigma_are_inverse_between_entries(table):
    timesteps = torch.linspace(0, 999, 777, dtype=torch.float64)
    back = [table.timestep(sigma) for sigma in table.at(timesteps).tolist()]
    np.testing.assert_allclose(back, timesteps, atol=2e-4)


def test_timesteps_are_linear_in_log_sigma_and_clamped(table):
    middle = math.sqrt(table.sigmas[500] * table.sigmas[501])
    assert table.timestep(middle) == pytest.approx(500.5, abs=1e-9)
    assert table.timestep(1e-6) == 0
    assert table.timestep(1e6) == 999


def test_the_lcm_table_has_every_twentieth_timestep_and_rounds_to_it(facts, table):
    lcm = lcm_table(model_levels(facts.alphas))
    assert lcm.sigmas == tuple(table.sigmas[timestep] for timestep in range(19, 1000, 20))
    assert lcm.timestep(table.sigmas[19]) == 19
    assert lcm.timestep(table.sigmas[508]) == 499
    assert lcm.timestep(table.sigmas[511]) == 519
    assert lcm.timestep(table.sigmas[999]) == 999


def test_discarding_the_penultimate_keeps_the_number_of_steps(table):
    grid = _grid(table, steps=7)
    longer = build("karras", dataclasses.replace(grid, steps=8))
    assert build("karras", grid, discard_penultimate=True) == (*longer[:-2], 0.0)


def test_limits_and_rho_override_the_models_and_the_schedules(facts, sampling):
    plan = make_plan(sampling("Euler", schedule="Karras", sigma_min=0.1, sigma_max=10.0, rho=3.0), facts)
    assert plan.sigmas[0] == pytest.approx(10.0, rel=1e-6)
    assert plan.sigmas[-2] == pytest.approx(0.1, rel=1e-6)
    cube_roots = np.cbrt(plan.sigmas[:-1])
    np.testing.assert_allclose(np.diff(cube_roots), cube_roots[1] - cube_roots[0], rtol=1e-3)


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (-1.0, 5.0), (3.0, 3.0)])
def test_senseless_limits_are_refused(facts, sampling, low, high):
    with pytest.raises(InvalidField, match="sigma_min"):
        make_plan(sampling("Euler", schedule="Karras", sigma_min=low, sigma_max=high), facts)


def test_no_steps_are_refused(table):
    with pytest.raises(InvalidField, match="steps"):
        build("karras", _grid(table, steps=0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 37, 150])
def test_schedules_fall_strictly(table, schedule, steps):
    sigmas = build(schedule, _grid(table, steps=steps, rho=1.0 if schedule == "polyexponential" else 7.0))
    assert all(isinstance(sigma, float) and sigma >= 0 for sigma in sigmas)
    assert all(sigma > following for sigma, following in pairwise(sigmas))


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.01, 0.2, 0.499, 0.5, 0.7, 0.999, 1.0])
def test_beta_quantiles_invert_the_distribution(share):
    """With u = sin(angle)^2 the density is (sin(2 angle) / 2)^0.2; the arcsine law is a closed form."""
    assert beta_quantile(share, 0.5, 0.5) == pytest.approx(math.sin(math.pi * share / 2) ** 2, abs=1e-14)
    value = beta_quantile(share, 0.6, 0.6)
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = (np.sin(2 * angles) / 2) ** 0.2
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    found = np.interp(math.asin(math.sqrt(value)), angles, cumulative / cumulative[-1])
    assert found == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "changes"), [("polyexponential", {"steps": 40}), ("simple", {"steps": 1500})]
)
def test_a_schedule_that_stands_still_is_refused(table, schedule, changes):
    with pytest.raises(InvalidField, match="do not fall"):
        build(schedule, _grid(table, **changes))
