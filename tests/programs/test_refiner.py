"""The refiner: when it takes over, and what changes then."""

from dataclasses import replace

import pytest
from driving import after_reports, drive, interrupt, of
from toy import ToyDevice, toy_hires, toy_img2img, toy_job, toy_refiner

from sdserver.calls import Decode, EncodeText, Predict, UseModel
from sdserver.errors import EngineFailure
from sdserver.jobs.job import Size
from sdserver.jobs.model import Model
from sdserver.programs.img2img import img2img
from sdserver.programs.txt2img import txt2img

BASE = toy_job("a").model
REFINER = toy_refiner(0).model


def models(calls):
    """The models of the evaluations, in order, as a string: b for the base, r for the refiner."""
    return "".join("r" if call.model == REFINER else "b" for call in of(calls, Predict))


def run(switch_at, by_steps=False, **asked):
    job = replace(toy_job("a", cfg=1.0, **asked), refiner=toy_refiner(switch_at, by_steps=by_steps))
    return drive(txt2img(job), ToyDevice().answer)


@pytest.mark.parametrize(
    ("switch_at", "expected"),
    # Six uniform steps are at timesteps 999, 799, 599, 400, 200 and 0.
    [(0.0, "rrrrrr"), (0.2, "brrrrr"), (0.5, "bbbrrr"), (0.8, "bbbbbr"), (0.999, "bbbbbr"), (1.0, "bbbbbb")],
)
def test_it_takes_over_at_its_share_of_the_noise_schedule(switch_at, expected):
    outcome, calls = run(switch_at, steps=6)
    assert models(calls) == expected
    assert outcome.used.refined == ("r" in expected)


@pytest.mark.parametrize(
    ("switch_at", "expected"), [(0.0, "rrrrr"), (0.4, "bbrrr"), (0.5, "bbbrr"), (0.9, "bbbbb")]
)
def test_or_at_its_share_of_the_steps(switch_at, expected):
    assert models(run(switch_at, by_steps=True, steps=5)[1]) == expected


def test_samplers_over_timesteps_know_theirs():
    # Timesteps 801, 601, 401 and 201.
    assert models(run(0.398, sampler="DDIM", steps=5)[1]) == "brrr"
    assert models(run(0.399, sampler="DDIM", steps=5)[1]) == "bbrr"


def test_second_order_samplers_count_evaluations():
    assert models(run(0.5, by_steps=True, sampler="Heun", steps=4)[1]) == "bbbbrrr"


def test_it_reads_the_prompt_itself_and_decodes():
    _, calls = run(0.5, steps=6)
    kinds = [type(call).__name__ for call in calls if not isinstance(call, Predict)]
    taken = calls[calls.index(of(calls, UseModel)[1]) :]
    assert kinds.count("UseModel") == 2
    assert [call.model for call in of(taken, EncodeText)] == [REFINER] * 2
    assert of(calls, Decode)[0].model == REFINER
    before, after = (of(calls, Predict)[index].conditioning.context for index in (0, -1))
    assert not before.equal(after)


def test_it_takes_over_from_a_picture_too():
    job = replace(toy_job("a", steps=6, cfg=1.0), refiner=toy_refiner(0.7))
    _, calls = drive(img2img(toy_img2img(job)), ToyDevice().answer)
    assert models(calls) == "bbrr"


def test_each_pass_has_its_own():
    base = toy_job("a", steps=4, cfg=1.0)
    both = replace(toy_hires(base, strength=0.999, refiner=toy_refiner(0.5)), refiner=toy_refiner(0.5))
    assert models(drive(txt2img(both), ToyDevice().answer)[1]) == "bbrrbbrr"
    first = replace(toy_hires(base, strength=0.999), refiner=toy_refiner(0.5))
    outcome, calls = drive(txt2img(first), ToyDevice().answer)
    assert models(calls) == "bbrrbbbb"
    assert outcome.used.refined
    second = toy_hires(base, strength=0.999, refiner=toy_refiner(0.5), upscale_to=Size(128, 128))
    outcome, calls = drive(txt2img(second), ToyDevice().answer)
    assert models(calls) == "bbbbbbrr"
    assert {call.size for call in of(calls, EncodeText) if call.model == REFINER} == {Size(128, 128)}
    assert outcome.used.refined


def test_the_second_pass_may_run_on_what_refined_the_first():
    job = replace(toy_job("a", steps=4, cfg=1.0), refiner=toy_refiner(0.5))
    _, calls = drive(txt2img(toy_hires(job, strength=0.999, model=REFINER)), ToyDevice().answer)
    assert models(calls) == "bbrrrrrr"
    assert {call.model for call in of(calls, Decode)} == {REFINER}
    assert [call.model for call in of(calls, UseModel)] == [BASE, REFINER, REFINER]


def test_a_checkpoint_does_not_refine_itself():
    job = replace(toy_job("a", steps=3), refiner=replace(toy_refiner(0.0), model=BASE))
    outcome, calls = drive(txt2img(job), ToyDevice().answer)
    assert len(of(calls, UseModel)) == 1
    assert not outcome.used.refined


def test_only_an_inpainting_base_can_be_refined_by_an_inpainting_checkpoint():
    inpainting = Model("/models/inpainting.safetensors")
    job = replace(toy_job("a", steps=3), refiner=replace(toy_refiner(0.0), model=inpainting))
    with pytest.raises(EngineFailure, match="inpainting"):
        drive(txt2img(job), ToyDevice().answer)
    job = replace(toy_job("a", steps=3), model=inpainting, refiner=toy_refiner(0.5))
    _, calls = drive(txt2img(job), ToyDevice().answer)
    assert [len(call.x) for call in of(calls, Predict)] == [9, 9, 4, 4, 4, 4]


def test_interruption_while_it_is_loaded_keeps_what_the_base_has():
    job = replace(toy_job("a", steps=6), refiner=toy_refiner(0.5))
    outcome, calls = interrupt(txt2img(job), ToyDevice().answer, after_reports(3))
    assert [type(call) for call in calls] == [Decode]
    assert calls[0].model == BASE
    assert outcome.interrupted
