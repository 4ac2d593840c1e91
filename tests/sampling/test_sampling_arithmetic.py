import math

import pytest
import torch

from sdserver.sampling import scalars
from sdserver.sampling.guidance import combine
from sdserver.sampling.noise import make_generator
from sdserver.sampling.prediction import c_in, to_denoised
from sdserver.sampling.quadrature import integral

SHAPE = (4, 3, 5)


def _draw(seed):
    return make_generator("CPU", seed, torch.device("cpu")).draw(SHAPE).double()


@pytest.mark.parametrize("sigma", [0.03, 0.7, 14.6])
def test_a_perfect_network_gives_back_the_clean_latent(sigma):
    clean, noise = _draw(1), _draw(2)
    x = clean + sigma * noise
    alpha = 1 / (1 + sigma**2)
    v = math.sqrt(alpha) * noise - math.sqrt(1 - alpha) * clean
    torch.testing.assert_close(to_denoised("epsilon", x, noise, sigma), clean)
    torch.testing.assert_close(to_denoised("v", x, v, sigma), clean)
    torch.testing.assert_close(x * c_in(sigma), math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise)


def test_guidance_of_one_is_the_prompts_and_of_zero_the_negative_prompts():
    cond, uncond = _draw(1), _draw(2)
    torch.testing.assert_close(combine([(cond, 1.0)], uncond, 1.0), cond)
    assert torch.equal(combine([(cond, 1.0)], uncond, 0.0), uncond)


def test_guidance_of_several_parts_adds_their_weighted_directions():
    first, second, uncond = _draw(1), _draw(2), _draw(3)
    expected = uncond + 7.0 * (0.6 * (first - uncond) - 0.2 * (second - uncond))
    torch.testing.assert_close(combine([(first, 0.6), (second, -0.2)], uncond, 7.0), expected)


def test_guidance_leaves_its_inputs_alone():
    cond, uncond = _draw(1), _draw(2)
    before = uncond.clone()
    combine([(cond, 1.0)], uncond, 7.0)
    assert torch.equal(uncond, before)


@pytest.mark.parametrize("value", [1e-9, 0.03, 0.7, 1.0, 14.6, 4518.7])
def test_scalars_are_pythons_but_for_the_last_digit(value):
    for ours, theirs in (
        (scalars.exp(-value), math.exp(-value)),
        (scalars.expm1(-value), math.expm1(-value)),
        (scalars.log(value), math.log(value)),
        (scalars.sqrt(value), math.sqrt(value)),
        (scalars.sigma_at(scalars.time_of(value)), value),
    ):
        assert ours == pytest.approx(theirs, rel=1e-14, abs=0.0)


def test_the_time_of_no_noise_is_never_reached():
    assert scalars.time_of(0.0) == math.inf
    assert scalars.sigma_at(math.inf) == 0.0
    assert scalars.expm1(-math.inf) == -1.0
    assert scalars.sqrt(-1e-17) == 0.0


@pytest.mark.parametrize("degree", [0, 3, 30, 31])
def test_integrals_of_polynomials_are_exact(degree):
    expected = (2.0 ** (degree + 1) - 0.5 ** (degree + 1)) / (degree + 1)
    assert integral(lambda at: at**degree, 0.5, 2.0) == pytest.approx(expected, rel=1e-14)
    assert integral(lambda at: at**degree, 2.0, 0.5) == pytest.approx(-expected, rel=1e-14)
