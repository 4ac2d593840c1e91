"""Every sampler's path against the one that AUTOMATIC1111 took, and what it asks for on the way."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sdserver.sampling.guidance import Guided
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import SIGMA_SAMPLERS, TIMESTEP_SAMPLERS, make_plan
from sdserver.sampling.prediction import c_in
from sdserver.sampling.registry import SAMPLERS
from sdserver.sampling.samplers import restart_steps
from sdserver.sampling.sigmas import karras_sigmas

CPU = torch.device("cpu")
CROP = (slice(None), slice(2, 4), slice(3, 6))

# Sampler: evaluations and draws of the image's generator in 20 steps, as measured with AUTOMATIC1111.
COUNTS = {
    "DPM++ 2M": (20, 0),
    "DPM++ SDE": (39, 0),
    "DPM++ 2M SDE": (20, 0),
    "DPM++ 2M SDE Heun": (20, 0),
    "DPM++ 3M SDE": (20, 0),
    "DPM++ 2S a": (39, 19),
    "Euler a": (20, 19),
    "Euler": (20, 20),
    "LMS": (20, 0),
    "Heun": (39, 20),
    "DPM2": (39, 20),
    "DPM2 a": (39, 19),
    "DPM fast": (20, 7),
    "DPM adaptive": (39, 10),
    "Restart": (39, 1),
    "DDIM": (19, 19),
    "DDIM CFG++": (19, 19),
    "PLMS": (20, 0),
    "UniPC": (20, 0),
    "LCM": (20, 19),
}
# By default these draw only to multiply by zero; here they draw as soon as something is made of it.
USES = {
    "Euler": {"churn": 1.0, "churn_min": 1e9},
    "Heun": {"churn": 1.0, "churn_min": 1e9},
    "DPM2": {"churn": 1.0, "churn_min": 1e9},
    "DDIM": {"eta": 0.5},
    "DDIM CFG++": {"eta": 0.5},
}
BROWNIAN_QUERIES = {"DPM++ SDE": 38, "DPM++ 2M SDE": 19, "DPM++ 2M SDE Heun": 19, "DPM++ 3M SDE": 19}

# The order of evaluations (c) and draws (n) over the first steps.
ORDERS = {
    "DPM++ SDE": "cncn",
    "DPM++ 2M SDE": "cncn",
    "DPM++ 2S a": "ccnccn",
    "Euler a": "cncn",
    "Euler": "ncnc",
    "Heun": "nccncc",
    "DPM2": "nccncc",
    "DPM2 a": "ccnccn",
    "DDIM": "cncn",
    "LCM": "cncn",
}


class Recorder(ImageNoise):
    """Counts draws; crops them, as samplers treat each value by itself."""

    def __init__(self, spec, shape, crop=(slice(None),) * 3):
        super().__init__(spec, shape, CPU)
        self._crop = crop
        self.events = []
        self.queries = 0

    def first(self):
        return super().first()[self._crop]

    def next(self):
        self.events.append("n")
        return super().next()[self._crop]

    def brownian(self, sigma_min, sigma_max):
        tree = super().brownian(sigma_min, sigma_max)

        def query(sigma, sigma_next):
            self.events.append("n")
            self.queries += 1
            return tree(sigma, sigma_next)[self._crop]

        return query


def _record(plan, noise, drive):
    def denoiser(x, sigma):
        noise.events.append("c")
        denoised = x / (1 + sigma**2)
        return Guided(denoised, denoised) if plan.sampler.wants_uncond else denoised

    drive(plan.start(plan.initial(noise.first()), noise), denoiser)
    return noise.events


def test_every_listed_sampler_can_be_run():
    assert {*SIGMA_SAMPLERS, *TIMESTEP_SAMPLERS} == {sampler.name for sampler in SAMPLERS} == set(COUNTS)
    assert {s.name for s in SAMPLERS if s.kind == "timestep"} == set(TIMESTEP_SAMPLERS)


REPLAYED = [sampler for sampler in SAMPLERS if sampler.name != "DPM adaptive"]


@pytest.mark.parametrize("sampler", REPLAYED, ids=lambda sampler: sampler.name)
def test_the_path_is_automatic1111s(goldens, facts, sampling, noise_spec, drive, sampler):
    with np.load(goldens / "replay.npz") as arrays:
        path, levels, denoised, latent = (
            arrays[f"{sampler.name}|{part}"] for part in ("x", "level", "denoised", "latent")
        )
        uncond = arrays[f"{sampler.name}|uncond"] if sampler.wants_uncond else denoised
    plan = make_plan(sampling(sampler.name, steps=6), facts)
    noise = Recorder(noise_spec(), (4, 8, 8), CROP)
    replies = map(Guided, torch.from_numpy(denoised), torch.from_numpy(uncond))
    visited, levels_visited = [], []

    def denoiser(x, sigma):
        is_timestep = sampler.kind == "timestep"
        visited.append(x * c_in(sigma) if is_timestep else x)
        levels_visited.append(plan.timestep(sigma) if is_timestep else sigma)
        reply = next(replies)
        return reply if sampler.wants_uncond else reply.denoised

    result = drive(plan.start(plan.initial(noise.first()), noise), denoiser)
    assert len(visited) == len(path) == plan.evaluations
    np.testing.assert_allclose(
        levels_visited, levels, rtol=1e-6, atol=1e-3 if sampler.name == "UniPC" else 1e-6
    )
    np.testing.assert_allclose(torch.stack(visited).numpy(), path, atol=2e-3)
    np.testing.assert_allclose(result.numpy(), latent, atol=2e-3)


@pytest.mark.parametrize("name", COUNTS)
def test_evaluations_and_draws_are_automatic1111s(facts, sampling, noise_spec, drive, name):
    plan = make_plan(sampling(name, **USES.get(name, {})), facts)
    noise = Recorder(noise_spec(), (1, 2, 2))
    events = _record(plan, noise, drive)
    evaluations, draws = COUNTS[name]
    assert events.count("c") == plan.evaluations == evaluations
    assert noise.queries == BROWNIAN_QUERIES.get(name, 0)
    assert events.count("n") - noise.queries == draws


@pytest.mark.parametrize("name", ORDERS)
def test_noise_is_drawn_where_automatic1111_draws_it(facts, sampling, noise_spec, drive, name):
    noise = Recorder(noise_spec(), (1, 2, 2))
    events = _record(make_plan(sampling(name, **USES.get(name, {})), facts), noise, drive)
    assert "".join(events).startswith(ORDERS[name])


@pytest.mark.parametrize("name", USES)
def test_what_nobody_would_see_is_not_drawn(facts, sampling, noise_spec, drive, name):
    noise = Recorder(noise_spec(), (1, 2, 2))
    events = _record(make_plan(sampling(name), facts), noise, drive)
    assert events == ["c"] * COUNTS[name][0]


@pytest.mark.parametrize(
    ("name", "steps", "evaluations"),
    [
        ("Restart", 36, 71),
        ("DDIM", 30, 30),
        ("PLMS", 30, 31),
        ("UniPC", 30, 31),
        ("DDIM", 1, 0),
        ("Euler", 1, 1),
    ],
)
def test_evaluations_at_other_numbers_of_steps(facts, sampling, name, steps, evaluations):
    assert make_plan(sampling(name, steps=steps), facts).evaluations == evaluations


def test_restart_renoises_twice_from_36_steps_on(facts, sampling, noise_spec, drive):
    noise = Recorder(noise_spec(), (1, 2, 2))
    assert _record(make_plan(sampling("Restart", steps=36), facts), noise, drive).count("n") == 2


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 50])
def test_every_sampler_ends_well_at_any_number_of_steps(
    facts, sampling, noise_spec, drive, answering, name, steps
):
    """The ideal denoiser of a single picture leads exactly there, but for noise left at the end."""
    plan = make_plan(sampling(name, steps=steps), facts)
    noise = ImageNoise(noise_spec(), (4, 4, 4), CPU)
    x = plan.initial(noise.first())
    target = torch.linspace(-1, 1, 64).reshape(4, 4, 4)
    result = drive(plan.start(x, noise), answering(plan, lambda _x, _sigma: target))
    left = plan.levels.sigma(1) if plan.timesteps else plan.table.sigmas[0]
    if plan.evaluations == 0:
        assert torch.equal(result, x)
    else:
        assert (result - target).abs().max() < 5 * left


def test_ddims_levels_are_exactly_the_models_timesteps(facts, sampling, noise_spec, drive):
    plan = make_plan(sampling("DDIM"), facts)
    seen = []

    def denoiser(x, sigma):
        seen.append(plan.timestep(sigma))
        return x * 0

    drive(plan.start(torch.ones(4, 2, 2), ImageNoise(noise_spec(), (4, 2, 2), CPU)), denoiser)
    assert seen == [float(timestep) for timestep in plan.timesteps[:0:-1]]


def test_churn_raises_the_level_within_its_range_only(facts, sampling, noise_spec, drive):
    changes = {"churn": 5.0, "churn_min": 0.5, "churn_max": 8.0, "noise_scale": 1.1}
    plan = make_plan(sampling("Euler", **changes), facts)
    source, drawn = (ImageNoise(noise_spec(), (1, 2, 2), CPU) for _ in range(2))
    levels = []
    expected = x = source.first() * 14.0
    drawn.first()

    def denoiser(x, sigma):
        nonlocal expected
        base, noise = plan.sigmas[len(levels)], drawn.next()
        churned = 0.5 <= base <= 8.0
        assert sigma == pytest.approx(base * (1.25 if churned else 1.0), rel=1e-12)
        if churned:
            expected = expected + noise * 1.1 * math.sqrt(sigma**2 - base**2)
        torch.testing.assert_close(x, expected)
        levels.append(churned)
        expected = x * (plan.sigmas[len(levels)] / sigma)
        return x * 0

    drive(plan.start(x, source), denoiser)
    assert any(levels)
    assert not all(levels)


@pytest.mark.parametrize(
    "name", ["Euler a", "DPM++ 2S a", "DPM2 a", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE"]
)
def test_without_eta_the_noise_has_no_effect(facts, sampling, noise_spec, drive, name):
    plan = make_plan(sampling(name, eta=0.0), facts)
    x = plan.initial(ImageNoise(noise_spec(), (1, 4, 4), CPU).first())
    results = [
        drive(
            plan.start(x, ImageNoise(noise_spec(seed=seed), (1, 4, 4), CPU)), lambda x, sigma: x / (1 + sigma)
        )
        for seed in (1, 2)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize(("steps", "length", "times"), [(20, 9, 1), (35, 9, 1), (36, 9, 2), (50, 12, 2)])
def test_restart_walks_from_2_to_a_tenth_again(steps, length, times):
    base = karras_sigmas(steps - length * times, 0.03, 14.0)
    low, high = (min(base, key=lambda sigma: abs(sigma - target)) for target in (0.1, 2.0))
    again = list(pairwise(karras_sigmas(length + 1, low, high)[:-1]))
    walked = restart_steps(karras_sigmas(steps, 0.03, 14.0))
    cut = [sigma for sigma, _ in walked].index(again[0][0], base.index(low))
    assert len(walked) == steps
    assert walked[:cut] == list(pairwise(base[: base.index(low) + 1]))
    assert walked[cut : cut + length * times] == again * times
    assert walked[cut + length * times :] == list(pairwise(base[base.index(low) :]))


def test_restart_changes_nothing_below_20_steps():
    sigmas = karras_sigmas(19, 0.03, 14.0)
    assert restart_steps(sigmas) == list(pairwise(sigmas))
