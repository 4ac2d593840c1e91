"""From the network's output to what a sampler is sent: predictions, guidance, masks."""

import dataclasses
import math

import pytest
import torch

from sdserver.sampling.inpainting import blend_denoised, blend_input, carried_over
from sdserver.sampling.noise import make_generator
from sdserver.sampling.plan import make_plan
from sdserver.sampling.prediction import c_in, from_v, to_denoised
from sdserver.sampling.registry import SAMPLERS

SHAPE = (4, 3, 5)


def _draw(seed):
    return make_generator("CPU", seed, torch.device("cpu")).draw(SHAPE).double()


@pytest.fixture
def v_facts(facts):
    return dataclasses.replace(facts, prediction="v")


@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M", "DDIM"])
def test_a_plan_reads_the_networks_kind_of_prediction(facts, v_facts, sampling, name):
    clean, noise = _draw(1), _draw(2)
    for model in (facts, v_facts):
        plan = make_plan(sampling(name), model)
        sigma = plan.sigmas[5] if plan.sigmas else plan.levels.sigma(plan.timesteps[5])
        root, rest = c_in(sigma), sigma * c_in(sigma)
        output = noise if model is facts else root * noise - rest * clean
        torch.testing.assert_close(plan.denoised(clean + sigma * noise, output, sigma), clean)


def test_lcm_takes_every_output_for_an_epsilon(facts, v_facts, sampling):
    """With c_skip 0.25 / (s^2 + 0.25) and c_out s / sqrt(s^2 + 0.25) for s of ten times the timestep."""
    x, output = _draw(1), _draw(2)
    for model in (facts, v_facts):
        plan = make_plan(sampling("LCM", steps=4), model)
        for sigma in plan.sigmas[:-1]:
            scaled = 10 * plan.timestep(sigma)
            skip, out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)
            torch.testing.assert_close(plan.denoised(x, output, sigma), (x - sigma * output) * out + x * skip)


def test_unipc_takes_v_apart_at_the_whole_timestep_below(v_facts, sampling):
    plan = make_plan(sampling("UniPC", steps=7), v_facts)
    sigma, timestep = next(item for item in plan.own_timesteps.items() if item[1] % 1 > 0.3)
    x, output = _draw(1), _draw(2)
    alpha = v_facts.alphas[int(timestep)]
    eps = math.sqrt(alpha) * output + math.sqrt(1 - alpha) * x * c_in(sigma)
    torch.testing.assert_close(plan.denoised(x, output, sigma), x - sigma * eps)
    assert not torch.equal(plan.denoised(x, output, sigma), to_denoised("v", x, output, sigma))


def test_from_v_at_its_own_level_is_plain(facts, sampling):
    x, output, sigma = _draw(1), _draw(2), 1.7
    root = c_in(sigma)
    torch.testing.assert_close(
        from_v(x, output, sigma, root, sigma * root), to_denoised("v", x, output, sigma)
    )


def test_one_sampler_wants_uncond_and_scales_its_guidance():
    special = {sampler.name: sampler.guidance_factor for sampler in SAMPLERS if sampler.wants_uncond}
    assert special == {"DDIM CFG++": pytest.approx(0.08)}
    assert {sampler.guidance_factor for sampler in SAMPLERS if not sampler.wants_uncond} == {1.0}


@pytest.fixture
def mask():
    values = torch.zeros(3, 5, dtype=torch.float64)
    values[1:, 2:] = 1.0
    values[0, 0] = 0.25
    return values


def test_a_blend_keeps_the_picture_where_the_mask_is_zero(mask):
    latent, init = _draw(1), _draw(2)
    blended = blend_denoised(latent, init, mask)
    assert torch.equal(blended[:, 1:, 2:], latent[:, 1:, 2:])
    assert torch.equal(blended[:, 1:, :2], init[:, 1:, :2])
    torch.testing.assert_close(blended[:, 0, 0], 0.25 * latent[:, 0, 0] + 0.75 * init[:, 0, 0])


@pytest.mark.parametrize("sigma", [0.1, 3.0])
def test_timestep_samplers_show_the_network_the_clean_picture_beside_their_x(mask, sigma):
    """In the variance-preserving frame: x * mask + init * (1 - mask)."""
    x, init = _draw(1), _draw(2)
    seen = blend_input(x, sigma, init, mask) * c_in(sigma)
    torch.testing.assert_close(seen, x * c_in(sigma) * mask + init * (1 - mask))


def test_the_noise_found_in_what_was_seen_is_taken_out_of_x(mask):
    x, init, eps, sigma = _draw(1), _draw(2), _draw(3), 2.0
    seen = blend_input(x, sigma, init, mask)
    torch.testing.assert_close(carried_over(seen - sigma * eps, x, seen), x - sigma * eps)
