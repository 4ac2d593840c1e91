"""Noise recovered from a picture."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from driving import drive, of
from toy import ALPHAS, ToyDevice, toy_img2img, toy_job, toy_mask, toy_picture

from sdserver.calls import Decode, Encode, EncodeText, Predict, Report
from sdserver.jobs.job import Recovery, Start
from sdserver.programs.img2img import img2img
from sdserver.programs.recovery import steps_back
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.prediction import c_in

PLAIN = Recovery("a", "b", steps=40, cfg_scale=1.0, randomness=0.0, sigma_adjustment=False)


def job_with(recovery, *, steps=40, seed=1, text="a", **changes):
    job = toy_img2img(toy_job("a", text=text, seed=seed, steps=steps, cfg=1.0, sampler="Euler"), **changes)
    return replace(job, recovery=recovery, start=Start(1.0, exact_steps=False, noise_multiplier=3.0))


def ran(job):
    """The picture's latent, the result's, and the calls."""
    toy = ToyDevice()
    _, calls = drive(img2img(job), toy.answer)
    return toy.answer(of(calls, Encode)[0]), of(calls, Decode)[0].latent, calls


def sigma_of(timestep):
    low = math.floor(timestep)
    logs = [math.log((1 - alpha) / alpha) / 2 for alpha in (ALPHAS[min(low + k, 999)] for k in (0, 1))]
    return math.exp(logs[0] + (logs[1] - logs[0]) * (timestep - low))


class Gaussian(ToyDevice):
    """Its network knows what is best for data of variance 1: x at a sigma then grows by sqrt(1 + sigma^2)."""

    def answer(self, call):
        if not isinstance(call, Predict):
            return super().answer(call)
        sigma = sigma_of(call.timestep)
        return call.x * (sigma / math.sqrt(1 + sigma**2))


def distance(recovery, steps):
    job = job_with(replace(recovery, steps=steps), steps=steps)
    toy = Gaussian()
    _, calls = drive(img2img(job), toy.answer)
    start, end = toy.answer(of(calls, Encode)[0]), of(calls, Decode)[0].latent
    return ((end - start).norm() / start.norm()).item()


def adjusted():
    return replace(PLAIN, sigma_adjustment=True)


def test_the_way_back_and_forth_comes_close_to_the_picture():
    """Adjusted, where the end is not brought to the variance of noise, it does so with more steps."""
    few, many = distance(adjusted(), 20), distance(adjusted(), 160)
    assert many < few / 4
    assert many < 0.05
    end = distance(replace(adjusted(), randomness=1.0), 160)
    assert end > 10 * many, "from other noise it does not"


def test_the_seed_counts_only_with_randomness():
    picture = toy_picture(64, 64)

    def result(recovery, seed):
        return ran(job_with(recovery, seed=seed, init=picture))[1]

    assert torch.equal(result(PLAIN, 1), result(PLAIN, 2))
    half = replace(PLAIN, randomness=0.5)
    assert not torch.allclose(result(half, 1), result(half, 2), atol=1e-3)


def first_x(recovery):
    """The x of the first evaluation after the way back, in the variance-exploding frame."""
    job = job_with(recovery, steps=5)
    _, _, calls = ran(job)
    sigma = 14.614643
    return of(calls, Predict)[recovery.steps].x / c_in(sigma), sigma, job


def test_what_is_found_is_noise_of_variance_one():
    x, sigma, _ = first_x(PLAIN)
    assert (x / sigma).std().item() == pytest.approx(1, rel=1e-3)


def test_all_random_is_the_seeds_noise():
    x, sigma, job = first_x(replace(PLAIN, randomness=1.0))
    noise = ImageNoise(job.noise, (4, 8, 8), torch.device("cpu")).first()
    assert torch.allclose(x / sigma, noise, atol=1e-4)


def test_shares_are_mixed_at_variance_one():
    (found, sigma, _), (drawn, *_), (mixed, *_) = (
        first_x(replace(PLAIN, randomness=share)) for share in (0.0, 1.0, 0.25)
    )
    expected = (0.75 * found + 0.25 * drawn) / (0.75**2 + 0.25**2) ** 0.5
    assert torch.allclose(mixed, expected, atol=1e-3 * sigma)


def test_the_network_is_told_the_pictures_prompts_and_guided_by_them():
    recovery = replace(PLAIN, positive="what it shows (now:1.2) AND [more]", cfg_scale=2.0, steps=3)
    _, _, calls = ran(job_with(recovery, steps=3))
    assert [call.text for call in of(calls, EncodeText)][:2] == [recovery.positive, "b"], "as they are"
    assert [call.is_negative for call in of(calls, EncodeText)][:2] == [False, True]
    pairs = of(calls, Predict)[:6]
    assert all(torch.equal(one.x, other.x) for one, other in zip(pairs[::2], pairs[1::2], strict=True))
    guided = ran(job_with(replace(recovery, cfg_scale=1.0), steps=3))[1]
    assert not torch.allclose(ran(job_with(recovery, steps=3))[1], guided, atol=1e-3)


def test_progress_counts_both_ways():
    _, _, calls = ran(job_with(replace(PLAIN, steps=3), steps=4))
    assert [(one.step, one.steps) for one in of(calls, Report)] == [(k, 7) for k in range(1, 8)]


def test_steps():
    sigmas = (0.0, 0.5, 2.0, 8.0)
    assert steps_back(sigmas, is_adjusted=False) == [(b, b, b, b - a) for a, b in pairwise(sigmas)]
    assert steps_back(sigmas, is_adjusted=True) == [(0, 0.5, 1.0, 0.5), (0.5, 0.5, 0.5, 1.5), (2, 2, 2, 6)]


def test_the_first_adjusted_step_goes_nowhere():
    _, _, calls = ran(job_with(replace(adjusted(), steps=4)))
    start, _, _ = ran(job_with(None))
    first, second = of(calls, Predict)[:2]
    assert torch.equal(first.x, start)
    assert torch.allclose(second.x, start * c_in(0.029167), atol=1e-5)
    assert first.timestep == second.timestep == pytest.approx(0, abs=1e-3)


def test_a_mask_is_not_blended_again_at_the_end():
    job = job_with(PLAIN, mask=toy_mask(64))
    start, end, _ = ran(job)
    assert torch.allclose(end[:, :, 4:], start[:, :, 4:], atol=1e-5)
    assert not torch.equal(end[:, :, :4], start[:, :, :4])


def test_ancestral_steps_draw_from_the_seeds_first_noise_on():
    job = job_with(PLAIN, steps=4)
    euler = drive(img2img(job), Gaussian().answer)[1]
    ancestral = replace(job, sampling=replace(job.sampling, sampler="Euler a"))
    calls = drive(img2img(ancestral), Gaussian().answer)[1]
    begin, after = (of(calls, Predict)[40 + k] for k in (0, 1))
    assert torch.equal(begin.x, of(euler, Predict)[40].x)
    high, low = (sigma_of(call.timestep) for call in (begin, after))
    up = min(low, low / high * math.sqrt(high**2 - low**2))
    x = begin.x / c_in(high)
    down = math.sqrt(low**2 - up**2)
    moved = x + (begin.x * high / math.sqrt(1 + high**2)) * (down - high)
    drawn = (after.x / c_in(low) - moved) / up
    noise = ImageNoise(job.noise, (4, 8, 8), torch.device("cpu")).first()
    assert torch.allclose(drawn, noise, atol=1e-2)
