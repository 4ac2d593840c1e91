"""Programs driven by hand: what they ask for, step by step, without engine or model."""

from dataclasses import replace

import pytest
import torch
from driving import after_reports, drive, interrupt, of
from toy import ALPHAS, ToyDevice, toy_job

from sdserver.calls import Decode, Encode, EncodeText, Interrupted, Predict, Report, UseModel
from sdserver.jobs.model import ModelFacts
from sdserver.programs.txt2img import txt2img


def test_a_job_is_encode_predict_decode():
    outcome, calls = drive(txt2img(toy_job("a", steps=3)), ToyDevice().answer)
    kinds = [type(call) for call in calls]
    assert kinds == [UseModel, EncodeText, EncodeText, *[Predict, Predict, Report] * 3, Decode]
    assert [(r.step, r.steps) for r in of(calls, Report)] == [(1, 3), (2, 3), (3, 3)]
    assert not outcome.interrupted
    assert (outcome.picture.width, outcome.picture.height) == (8, 8)


def test_the_latent_is_an_eighth_of_the_size_rounded_down():
    job = toy_job("a", steps=1)
    job = replace(job, size=replace(job.size, width=100, height=60))
    _, calls = drive(txt2img(job), ToyDevice().answer)
    assert {tuple(call.x.shape) for call in of(calls, Predict)} == {(4, 7, 12)}


def test_prompt_editing_changes_the_conditioning_in_mid_run():
    _, calls = drive(txt2img(toy_job("a", text="[one:two:2]", steps=6)), ToyDevice().answer)
    assert [call.text for call in of(calls, EncodeText)] == ["one", "two", ""]
    assert of(calls, EncodeText)[0].variants == ("one", "two")
    means = [call.conditioning.context.mean().item() for call in of(calls, Predict)[::2]]
    assert means[:3] == [means[0]] * 3
    assert means[3:] == [means[-1]] * 3
    assert means[0] != means[-1]


def test_and_takes_a_row_for_each_part():
    _, calls = drive(txt2img(toy_job("a", text="one AND two:0.5", steps=2)), ToyDevice().answer)
    assert len(of(calls, Predict)) == 2 * 3


def test_network_tags_are_no_text():
    _, calls = drive(txt2img(toy_job("a", text="a cat <lora:x:1>", steps=1)), ToyDevice().answer)
    assert of(calls, EncodeText)[0].text.strip() == "a cat"


def test_an_inpainting_checkpoint_is_told_that_all_is_to_be_painted():
    toy = ToyDevice()

    def answer(call):
        match call:
            case UseModel(model):
                return ModelFacts(model, "sd1", "epsilon", 4, ALPHAS, inpainting=True)
            case Encode(pixels=pixels):
                assert not pixels.any(), "grey"
                return torch.full((4, *[side // 8 for side in pixels.shape[1:]]), 0.25)
            case Predict(x=x):
                return toy.answer(replace(call, x=x[:4]))
        return toy.answer(call)

    _, calls = drive(txt2img(toy_job("a", steps=2)), answer)
    for call in of(calls, Predict):
        assert call.x.shape == (9, 8, 8)
        assert (call.x[4] == 1).all()
        assert (call.x[5:] == 0.25).all()


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM"])
def test_interruption_keeps_the_last_denoised_latent(sampler):
    program = txt2img(toy_job("a", steps=8, sampler=sampler))
    outcome, calls = interrupt(program, ToyDevice().answer, after_reports(3))
    assert [type(call) for call in calls] == [Decode]
    assert outcome.interrupted


def test_interruption_before_the_first_step_ends_the_program():
    program = txt2img(toy_job("a"))
    next(program)
    with pytest.raises(Interrupted):
        program.throw(Interrupted())
