"""Pictures from pictures: masks, contents, blending, and what an inpainting checkpoint is given."""

from dataclasses import replace

import pytest
import torch
from driving import after_reports, drive, interrupt, of
from toy import ToyDevice, toy_img2img, toy_job, toy_mask, toy_picture

from sdserver.calls import Decode, Encode, EncodeText, Predict, Report, UseModel
from sdserver.errors import InvalidField
from sdserver.jobs.job import Start
from sdserver.jobs.model import Model
from sdserver.programs.img2img import img2img
from sdserver.programs.latent_masks import latent_mask
from sdserver.programs.pixels import to_pixels
from sdserver.sampling.noise import ImageNoise

INPAINTING = Model("/models/inpainting.safetensors")


def test_a_job_is_encode_predict_decode():
    outcome, calls = drive(img2img(toy_img2img(toy_job("a", steps=4, cfg=1.0))), ToyDevice().answer)
    kinds = [type(call) for call in calls]
    assert kinds == [UseModel, Encode, EncodeText, EncodeText, *[Predict, Report] * 3, Decode]
    assert [(one.step, one.steps) for one in of(calls, Report)] == [(1, 3), (2, 3), (3, 3)]
    assert outcome.picture.width == 8


def test_pixels_go_from_minus_one_to_one_in_the_pictures_order():
    picture = replace(toy_picture(2, 1), pixels=bytes([0, 255, 51, 255, 0, 204]))
    expected = torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]], [[-0.6, 0.6]]])
    assert torch.allclose(to_pixels(picture, "cpu"), expected, atol=1e-6)


def test_prompt_editing_counts_the_steps_that_were_asked_not_those_that_are_run():
    job = toy_img2img(toy_job("a", text="[one:two:3]", steps=6, cfg=1.0), strength=0.5)
    _, calls = drive(img2img(job), ToyDevice().answer)
    means = [call.conditioning.context.mean().item() for call in of(calls, Predict)]
    assert means == [means[0]] * 4, "the switch is behind the end"


def test_a_latent_may_be_resized():
    job = toy_img2img(toy_job("a", steps=2), init=toy_picture(160, 96), resize_latent=True)
    _, calls = drive(img2img(job), ToyDevice().answer)
    assert of(calls, Encode)[0].pixels.shape == (3, 96, 160)
    assert {call.x.shape for call in of(calls, Predict)} == {(4, 8, 8)}


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M SDE", "DDIM", "PLMS", "UniPC"])
def test_what_is_not_masked_stays_as_it_was(sampler):
    job = toy_img2img(toy_job("a", sampler=sampler, steps=5), mask=toy_mask(64))
    toy = ToyDevice()
    _, calls = drive(img2img(job), toy.answer)
    kept = toy.answer(of(calls, Encode)[0])
    result = of(calls, Decode)[0].latent
    assert torch.equal(result[:, :, 4:], kept[:, :, 4:])
    assert (result[:, :, :4] - kept[:, :, :4]).abs().max() > 0.01


def test_samplers_over_timesteps_show_the_network_the_blended_latent():
    job = toy_img2img(toy_job("a", sampler="DDIM", steps=5), mask=toy_mask(64))
    toy = ToyDevice()
    _, calls = drive(img2img(job), toy.answer)
    kept = toy.answer(of(calls, Encode)[0])
    for call in of(calls, Predict):
        assert torch.allclose(call.x[:, :, 4:], kept[:, :, 4:], atol=1e-6), "free of noise, as in A1111"


def test_grey_masks_blend_unless_they_are_rounded():
    latent = torch.ones(4, 8, 8)
    soft = latent_mask(toy_mask(64, left=102, is_rounded=False), latent, toy_job("a").noise)
    assert torch.allclose(soft.paint[:, :, :4], torch.tensor(0.4))
    assert torch.allclose(soft.blend(torch.zeros(4, 8, 8))[:, :, :4], torch.tensor(0.6))
    assert not latent_mask(toy_mask(64, left=102), latent, toy_job("a").noise).paint.any()
    assert latent_mask(toy_mask(64, left=153), latent, toy_job("a").noise).paint[:, :, :4].all()


def test_contents_of_the_masked_area():
    latent = torch.full((4, 8, 8), 0.5)
    noise = replace(toy_job("a", seed=7).noise, subseed=3, strength=0.5)
    nothing = latent_mask(toy_mask(64, "latent nothing"), latent, noise).kept
    assert not nothing[:, :, :4].any()
    noisy = latent_mask(replace(toy_mask(64, "latent noise"), content_seed=9), latent, noise).kept
    plain = ImageNoise(replace(noise, seed=9, strength=0.0), (4, 8, 8), torch.device("cpu")).first()
    assert torch.equal(noisy[:, :, :4], plain[:, :, :4]), "without the variation"
    for content in ("original", "fill"):
        assert torch.equal(latent_mask(toy_mask(64, content), latent, noise).kept, latent)
    for kept in (nothing, noisy):
        assert torch.equal(kept[:, :, 4:], latent[:, :, 4:])


def test_an_interrupted_job_keeps_what_is_not_masked():
    toy = ToyDevice()
    job = toy_img2img(toy_job("a", steps=8), mask=toy_mask(64))
    outcome, calls = interrupt(img2img(job), toy.answer, after_reports(2))
    kept = toy.answer(Encode(job.model, to_pixels(job.init, "cpu")))
    assert outcome.interrupted
    assert torch.equal(calls[0].latent[:, :, 4:], kept[:, :, 4:])


def given_beside(job):
    """What an inpainting checkpoint was given beside the latent, and the calls."""
    _, calls = drive(img2img(replace(job, model=INPAINTING)), ToyDevice().answer)
    (first, *others) = of(calls, Predict)
    assert all(torch.equal(call.x[4:], first.x[4:]) for call in others)
    return first.x[4:], calls


def test_an_inpainting_checkpoint_without_a_mask_is_told_to_paint_all():
    beside, calls = given_beside(toy_img2img(toy_job("a", steps=2)))
    assert (beside[0] == 1).all()
    assert not of(calls, Encode)[1].pixels.any(), "grey"


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_an_inpainting_checkpoint_is_given_the_mask_and_the_picture_with_a_hole(weight):
    job = toy_img2img(toy_job("a", steps=2), mask=toy_mask(64, weight=weight))
    beside, calls = given_beside(job)
    assert beside.shape == (5, 8, 8)
    assert beside[0, :, :4].all()
    assert not beside[0, :, 4:].any()
    picture, holed = (call.pixels for call in of(calls, Encode))
    assert torch.equal(holed[:, :, 32:], picture[:, :, 32:])
    assert torch.allclose(holed[:, :, :32], picture[:, :, :32] * (1 - weight), atol=1e-6)
    assert torch.equal(beside[1:], ToyDevice().answer(of(calls, Encode)[1]))


def test_an_inpainting_checkpoint_cannot_resize_latents():
    job = toy_img2img(toy_job("a"), init=toy_picture(160, 96), resize_latent=True)
    with pytest.raises(InvalidField, match="resize"):
        given_beside(job)


def test_noise_is_multiplied_and_extra_noise_added():
    base = toy_img2img(toy_job("a", steps=4, cfg=1.0))
    noise = ImageNoise(base.noise, (4, 8, 8), torch.device("cpu")).first()

    def first_x(**changes):
        job = replace(base, start=Start(0.5, exact_steps=False, **changes))
        return of(drive(img2img(job), ToyDevice().answer)[1], Predict)[0].x

    plain = first_x()
    more = first_x(extra_noise=0.5) - plain
    double = first_x(noise_multiplier=2.0) - plain
    share = (more / noise).mean()
    assert torch.allclose(more, noise * share, atol=1e-5)
    assert torch.allclose(double, noise * (double / noise).mean(), atol=1e-5)
    assert 0 < share < 0.5, "scaled as the network's input is"


def test_the_hole_of_an_inpainting_checkpoint_is_encoded_by_the_vae_itself():
    model = replace(INPAINTING, encoder="taesd")
    job = replace(toy_img2img(toy_job("a", steps=2), mask=toy_mask(64)), model=model)
    _, calls = drive(img2img(job), ToyDevice().answer)
    assert [call.model.encoder for call in of(calls, Encode)] == ["taesd", "full"]
    _, calls = drive(img2img(replace(job, mask=None)), ToyDevice().answer)
    assert [call.model.encoder for call in of(calls, Encode)] == ["taesd", "taesd"], "grey is not a hole"
