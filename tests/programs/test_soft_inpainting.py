"""Soft inpainting while sampling: what is blended, and what is found new."""

from dataclasses import replace

import pytest
import torch
from bundle_calls import random
from driving import drive, of
from toy import ToyDevice, toy_img2img, toy_job, toy_mask

from sdserver.calls import Decode, Encode, Predict
from sdserver.jobs.job import SoftInpainting
from sdserver.programs.img2img import img2img
from sdserver.programs.soft_inpainting import interpolated, shade

SOFT = SoftInpainting()
SAMPLERS = ["Euler", "DPM++ 2M SDE", "DDIM", "UniPC"]


def run(sampler, shade_of_half, *, soft=SOFT, cfg=3.0):
    """A job whose left half is masked by a level of grey; the right one is not."""
    mask = replace(toy_mask(64, left=shade_of_half, is_rounded=False), soft=soft)
    job = toy_img2img(toy_job("a", sampler=sampler, steps=5, cfg=cfg), mask=mask)
    outcome, calls = drive(img2img(job), ToyDevice().answer)
    return of(calls, Decode)[0].latent, outcome, calls


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_where_all_is_painted_it_is_plain(sampler):
    job = toy_img2img(toy_job("a", sampler=sampler, steps=5, cfg=3.0))
    _, calls = drive(img2img(job), ToyDevice().answer)
    plain = of(calls, Decode)[0].latent
    full = replace(toy_mask(64, is_rounded=False), latent=bytes([255]) * 64, soft=SOFT)
    _, calls = drive(img2img(replace(job, mask=full)), ToyDevice().answer)
    assert torch.allclose(of(calls, Decode)[0].latent, plain, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_grey_is_between(sampler):
    kept, *_ = run(sampler, 0)
    grey, *_ = run(sampler, 128)
    painted, *_ = run(sampler, 255)
    left = (slice(None), slice(None), slice(0, 4))
    assert (painted[left] - kept[left]).abs().max() > 0.01
    assert (grey[left] - kept[left]).norm() < (painted[left] - kept[left]).norm()
    assert not torch.allclose(grey[left], painted[left], atol=1e-4)


def test_what_is_new_is_told():
    _, outcome, _ = run("Euler", 255)
    assert len(outcome.new_parts) == 64
    left, right = outcome.new_parts[0], outcome.new_parts[7]
    assert left > right == 0
    assert run("Euler", 255, soft=None)[1].new_parts == b""


def test_timestep_samplers_are_shown_a_soft_blend():
    toy = ToyDevice()
    _, _, calls = run("DDIM", 200, cfg=1.0)
    kept = toy.answer(of(calls, Encode)[0])
    shown = [call.x for call in of(calls, Predict)]
    for x in shown:
        assert torch.allclose(x[:, :, 4:], kept[:, :, 4:], atol=1e-4), "free of noise, as in A1111"
    # A timestep of hundreds in the place of a sigma leaves nothing of what is grey.
    assert torch.allclose(shown[0][:, :, :4], kept[:, :, :4], atol=1e-3)
    _, _, calls = run("DDIM", 200, cfg=1.0, soft=SoftInpainting(scale=0))
    assert not torch.allclose(of(calls, Predict)[0].x[:, :, :4], kept[:, :, :4], atol=1e-2)


def test_a_mask_counts_less_the_less_noise_there_is():
    paint = torch.tensor([[[0.0, 0.25, 1.0]]])
    shades = [shade(paint, sigma, SOFT)[0, 0] for sigma in (14.0, 2.0, 0.1)]
    for values in shades:
        assert values[0] == 0
        assert values[2] == 1
    assert shades[0][1] < shades[1][1] < shades[2][1]
    assert shades[1][1] == pytest.approx(0.25 ** (2.0 * 0.5))
    assert shade(paint, 2.0, SoftInpainting(power=2, scale=3))[0, 0, 1] == pytest.approx(0.25**12)
    assert (shade(paint, 0.0, SOFT) == 1).all()


def test_magnitudes_are_mixed_on_their_own():
    """Two vectors at right angles: their mean is shorter than either, what is made of it is not."""
    first = torch.tensor([3.0, 0.0]).reshape(2, 1, 1)
    second = torch.tensor([0.0, 3.0]).reshape(2, 1, 1)
    half = torch.full((1, 1, 1), 0.5)
    assert interpolated(first, second, half, 4.0).flatten().norm() == pytest.approx(3, rel=1e-4)
    longer = interpolated(first, second * 2, half, 1.0).flatten()
    assert longer.norm() == pytest.approx(4.5, rel=1e-4)
    assert interpolated(first, second * 2, half, 32.0).norm() == pytest.approx(6 * 0.5 ** (1 / 32), rel=1e-4)
    assert torch.equal(longer / longer.norm(), torch.tensor([1.0, 2.0]) / torch.tensor([1.0, 2.0]).norm())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_ends_of_an_interpolation_are_its_ends(share):
    first, second = (random(4, 3, 3, seed=k) for k in (1, 2))
    mixed = interpolated(first, second, torch.full((1, 3, 3), share), 4.0)
    assert torch.allclose(mixed, second if share else first, atol=1e-4)
