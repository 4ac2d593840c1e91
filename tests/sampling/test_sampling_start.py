"""Runs that start from a picture: which steps are run, and what they start from."""

import math
from itertools import product

import pytest
import torch

from sdserver.errors import InvalidField
from sdserver.jobs.job import Start
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import make_plan
from sdserver.sampling.registry import SAMPLERS

CPU = torch.device("cpu")
SHAPE = (4, 3, 5)

# Evaluations of 20 steps at strength 0.75, as measured with AUTOMATIC1111.
AT_THREE_QUARTERS = {
    "DPM++ 2M": 16, "DPM++ SDE": 31, "DPM++ 2M SDE": 16, "DPM++ 2M SDE Heun": 16, "DPM++ 3M SDE": 16,
    "DPM++ 2S a": 31, "Euler a": 16, "Euler": 16, "LMS": 16, "Heun": 31, "DPM2": 31, "DPM2 a": 31,
    "DDIM": 14, "DDIM CFG++": 14, "PLMS": 15, "UniPC": 15, "LCM": 16,
}  # fmt: skip


@pytest.fixture
def picture():
    return torch.linspace(-2, 2, 60).reshape(SHAPE)


@pytest.fixture
def noise(noise_spec):
    return ImageNoise(noise_spec(), SHAPE, CPU).first()


def _start(strength, exact_steps=False, **changes):
    return Start(strength, exact_steps, **changes)


@pytest.mark.parametrize("name", AT_THREE_QUARTERS)
def test_evaluations_are_automatic1111s(facts, sampling, name):
    assert make_plan(sampling(name), facts, _start(0.75)).evaluations == AT_THREE_QUARTERS[name]


@pytest.mark.parametrize(
    ("name", "steps", "start", "evaluations", "counted"),
    [
        ("Euler", 20, _start(0.0), 1, 1),
        ("Euler", 20, _start(1.0), 20, 20),
        ("Euler", 6, _start(0.6), 4, 4),
        ("Euler", 6, _start(0.6, exact_steps=True), 6, 6),
        ("Euler", 6, _start(1.0, exact_steps=True), 6, 6),
        ("Euler", 6, _start(0.0, exact_steps=True), 0, 6),
        ("DPM++ 3M SDE", 6, _start(0.0, exact_steps=True), 0, 6),
        ("DPM fast", 6, _start(0.0, exact_steps=True), 0, 6),
        ("DPM fast", 20, _start(0.75), 16, 16),
        ("DPM adaptive", 6, _start(0.0, exact_steps=True), 0, 6),
        ("Heun", 6, _start(0.6, exact_steps=True), 11, 12),
        ("DDIM", 6, _start(0.6), 2, 4),
        ("DDIM", 6, _start(0.6, exact_steps=True), 4, 6),
        ("DDIM", 6, _start(0.0), 0, 1),
        ("UniPC", 6, _start(0.0), 0, 1),
        ("UniPC", 6, _start(0.0, exact_steps=True), 0, 6),
        ("PLMS", 6, _start(0.2), 0, 2),
    ],
)
def test_steps_at_other_strengths(facts, sampling, name, steps, start, evaluations, counted):
    plan = make_plan(sampling(name, steps=steps), facts, start)
    assert (plan.evaluations, plan.steps) == (evaluations, counted)


def test_without_a_picture_all_steps_count(facts, sampling):
    assert make_plan(sampling("Euler", steps=6), facts).steps == 6
    assert make_plan(sampling("Heun", steps=6), facts).steps == 12


def test_the_end_of_the_schedule_is_walked(facts, sampling):
    whole = make_plan(sampling("DPM++ 2M"), facts).sigmas
    assert make_plan(sampling("DPM++ 2M"), facts, _start(0.5)).sigmas == whole[-12:]
    longer = make_plan(sampling("DPM++ 2M", steps=40), facts).sigmas
    assert make_plan(sampling("DPM++ 2M"), facts, _start(0.5, exact_steps=True)).sigmas == longer[-21:]


def test_a_schedule_that_is_longer_than_asked_for_is_cut_where_automatic1111_cuts_it(facts, sampling):
    whole = make_plan(sampling("Euler", schedule="DDIM", steps=6), facts).sigmas
    assert len(whole) == 8
    assert make_plan(sampling("Euler", schedule="DDIM", steps=6), facts, _start(0.6)).sigmas == whole[2:]


def test_the_brownian_tree_spans_the_whole_schedule(facts, sampling):
    plans = [make_plan(sampling("DPM++ SDE"), facts, start) for start in (None, _start(0.3))]
    assert plans[0].tree_limits == plans[1].tree_limits == (plans[0].sigmas[-2], plans[0].sigmas[0])
    assert plans[1].sigmas[0] < plans[0].sigmas[0]


@pytest.mark.parametrize("name", ["DPM fast", "DPM adaptive"])
def test_solvers_with_steps_of_their_own_keep_to_the_cut_schedule(facts, sampling, noise_spec, drive, name):
    plan = make_plan(sampling(name), facts, _start(0.5))
    levels = []

    def denoiser(x, sigma):
        levels.append(sigma)
        return x / (1 + sigma**2)

    drive(plan.start(torch.ones(SHAPE) * 5, ImageNoise(noise_spec(), SHAPE, CPU)), denoiser)
    assert max(levels) == pytest.approx(plan.sigmas[0], rel=1e-6)
    assert min(levels) > plan.sigmas[-2] * (1 - 1e-6)
    assert levels[-1] < plan.sigmas[-2] * 3


def test_sigma_samplers_start_from_the_picture_and_noise_of_the_first_sigma(facts, sampling, picture, noise):
    plan = make_plan(sampling("Euler"), facts, _start(0.5))
    torch.testing.assert_close(plan.initial(noise, picture), picture + noise * plan.sigmas[0])


def test_timestep_samplers_start_one_timestep_above_their_first(facts, sampling, picture, noise):
    plan = make_plan(sampling("DDIM"), facts, _start(0.5))
    assert plan.timesteps[-1] == 451
    alpha = facts.alphas[501]
    expected = picture * math.sqrt(alpha) + noise * math.sqrt(1 - alpha)
    torch.testing.assert_close(plan.initial(noise, picture), expected)


@pytest.mark.parametrize("name", ["Euler", "DDIM"])
def test_extra_noise_is_the_multiplied_noise_too(facts, sampling, picture, noise, name):
    start = _start(0.5, extra_noise=0.1, noise_multiplier=0.8)
    given = make_plan(sampling(name), facts, start).initial(noise, picture)
    plain = make_plan(sampling(name), facts, _start(0.5)).initial(noise * 0.8, picture)
    scale = 1.0 if name == "Euler" else math.sqrt(facts.alphas[501])
    torch.testing.assert_close(given, plain + noise * (0.8 * 0.1 * scale))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_where_no_step_is_run_the_picture_comes_back(facts, sampling, noise_spec, drive, picture, sampler):
    plan = make_plan(sampling(sampler.name), facts, _start(0.0, exact_steps=True))
    noise = ImageNoise(noise_spec(), SHAPE, CPU)
    result = drive(plan.start(plan.initial(noise.first(), picture), noise), None)
    assert torch.equal(result, picture)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
@pytest.mark.parametrize("is_exact", [True, False])
def test_every_start_ends_well(facts, sampling, noise_spec, drive, answering, sampler, is_exact):
    """The ideal denoiser of the picture itself leads back to it, but for noise left at the end."""
    target = torch.linspace(-1, 1, 60).reshape(SHAPE)
    for strength, steps in product([0.0, 0.05, 0.3, 0.999, 1.0], [1, 3, 12]):
        plan = make_plan(sampling(sampler.name, steps=steps), facts, _start(strength, exact_steps=is_exact))
        noise = ImageNoise(noise_spec(), SHAPE, CPU)
        answer = answering(plan, lambda _x, _sigma: target)
        result = drive(plan.start(plan.initial(noise.first(), target), noise), answer)
        # Timestep samplers may be left where they start, DPM fast and adaptive where the schedule ends.
        left = plan.sigmas[-2] if len(plan.sigmas) > 1 else 1.0
        assert (result - target).abs().max() < 4 * max(left, 0.05)


def test_a_latent_is_taken_just_where_the_plan_starts_from_one(facts, sampling, picture, noise):
    with pytest.raises(ValueError, match="latent"):
        make_plan(sampling("Euler"), facts).initial(noise, picture)
    with pytest.raises(ValueError, match="latent"):
        make_plan(sampling("Euler"), facts, _start(0.5)).initial(noise)


def test_more_exact_steps_than_there_are_timesteps_are_refused(facts, sampling):
    with pytest.raises(InvalidField, match="1 to 1000"):
        make_plan(sampling("DDIM"), facts, _start(0.01, exact_steps=True))


def test_noise_is_scaled_as_stabilitys_code_does_on_request(facts, sampling, noise, picture):
    plan = make_plan(sampling("Euler", scale_noise_as_sgm=True), facts)
    torch.testing.assert_close(plan.initial(noise), noise * math.sqrt(1 + plan.sigmas[0] ** 2))
    started = make_plan(sampling("Euler", scale_noise_as_sgm=True), facts, _start(0.5))
    torch.testing.assert_close(started.initial(noise, picture), picture + noise * started.sigmas[0])
