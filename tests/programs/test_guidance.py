"""Which rows an evaluation takes, and what becomes of contexts of different length."""

from dataclasses import replace

import pytest
import torch
from driving import drive, of
from toy import ToyDevice, toy_hires, toy_job

from sdserver.calls import Conditioning, EncodeText, Predict, Report
from sdserver.jobs.job import Guidance
from sdserver.programs.padding import lengthened, levelled
from sdserver.programs.txt2img import txt2img
from sdserver.sampling.guidance import combine


def rows(job):
    """How many rows each evaluation took, and the outcome."""
    outcome, calls = drive(txt2img(job), ToyDevice().answer)
    taken, count = [], 0
    for call in calls:
        count += isinstance(call, Predict)
        if isinstance(call, Report):
            taken.append(count)
            count = 0
    return taken, outcome


def guided(job, **changes):
    return replace(job, guidance=Guidance(**changes))


def test_below_a_sigma_every_other_negative_row_is_left_out():
    # The sigmas are 14.6, 5.5, 2.5, 1.2, 0.6 and 0.03.
    job = toy_job("a", steps=6)
    assert rows(guided(job, min_uncond=3.0))[0] == [2, 2, 2, 1, 2, 1]
    assert rows(guided(job, min_uncond=3.0, min_uncond_all=True))[0] == [2, 2, 1, 1, 1, 1]
    assert rows(guided(job, min_uncond=100.0))[0] == [2, 1, 2, 1, 2, 1]
    assert rows(job)[0] == [2] * 6


def test_samplers_over_timesteps_compare_the_timestep():
    # Timesteps 997, 831, 665, 499, 333 and 167.
    job = toy_job("a", steps=6, sampler="DDIM")
    assert rows(guided(job, min_uncond=400.0, min_uncond_all=True))[0] == [2, 2, 2, 2, 1, 1]


def test_it_is_told_whether_that_happened():
    job = toy_job("a", steps=6)
    assert rows(guided(job, min_uncond=3.0))[1].used.skipped_uncond
    assert not rows(guided(job, min_uncond=0.001))[1].used.skipped_uncond
    assert not rows(guided(job, skip_early=0.3))[1].used.skipped_uncond


def test_the_first_steps_may_go_without_the_negative_prompt():
    assert rows(guided(toy_job("a", steps=10), skip_early=0.2))[0] == [1, 1, 1] + [2] * 7
    heun = rows(guided(toy_job("a", steps=5, sampler="Heun"), skip_early=0.2))[0]
    assert heun == [1, 1, 1] + [2] * 6, "counted in evaluations"
    assert rows(guided(toy_job("a", steps=4), skip_early=1.0))[0] == [1] * 4


def test_without_the_negative_row_the_positive_one_stands_alone():
    job = toy_job("a", steps=4)
    skipping, _ = drive(txt2img(guided(job, skip_early=1.0)), ToyDevice().answer)
    of_one = replace(job, sampling=replace(job.sampling, cfg_scale=1.0))
    assert skipping.picture == drive(txt2img(of_one), ToyDevice().answer)[0].picture


def test_guidance_goes_from_the_negative_towards_the_weighted_parts():
    uncond, one, two = (torch.tensor([value]) for value in (1.0, 3.0, 2.0))
    assert combine([(one, 1.0), (two, 0.5)], uncond, 4.0).item() == 1 + 4 * 2 + 4 * 0.5 * 1


def test_and_without_the_negative_row_goes_from_the_first_part():
    toy = ToyDevice()
    job = guided(toy_job("a", text="one AND two:0.5", steps=3), skip_early=1.0)
    assert rows(job)[0] == [2] * 3
    first, second = of(drive(txt2img(job), toy.answer)[1], Predict)[:2]
    assert not first.conditioning.context.equal(second.conditioning.context)


def test_ddim_cfgpp_always_takes_the_negative_row():
    job = toy_job("a", steps=5, sampler="DDIM CFG++", cfg=12.5)
    assert set(rows(job)[0]) == {2}
    assert set(rows(guided(job, skip_early=1.0))[0]) == {1}


LONG = "one BREAK two"


@pytest.mark.parametrize(("text", "negative"), [(LONG, "x"), ("one", LONG), ("one", "x"), (LONG, LONG)])
@pytest.mark.parametrize("padding", ["none", "chunks", "repeat"])
def test_contexts_of_different_length_are_padded_if_asked(text, negative, padding):
    job = toy_job("a", text=text, steps=2)
    job = replace(
        job,
        guidance=Guidance(padding=padding),
        prompt=replace(job.prompt, negative=negative),
    )
    outcome, calls = drive(txt2img(job), ToyDevice().answer)
    positive, uncond = (len(call.conditioning.context) for call in of(calls, Predict)[:2])
    differ = (text == LONG) != (negative == LONG)
    assert outcome.used.padded == (differ and padding != "none")
    if padding == "none":
        assert (positive, uncond) == (154 if text == LONG else 77, 154 if negative == LONG else 77)
    else:
        assert positive == uncond == (154 if text == LONG or (padding, differ) == ("chunks", True) else 77)
    assert [call.text for call in of(calls, EncodeText)].count("") == (padding == "chunks")


def test_what_stands_behind_the_shorter_context():
    short = Conditioning(torch.tensor([[1.0], [2.0]]))
    long = Conditioning(torch.tensor([[3.0], [4.0], [5.0], [6.0]]))
    empty = Conditioning(torch.tensor([[7.0], [8.0]]))
    assert lengthened(short, 4).context.flatten().tolist() == [1, 2, 2, 2]
    assert levelled([long], short, empty)[1].context.flatten().tolist() == [1, 2, 7, 8]
    assert levelled([short], long, empty)[0][0].context.flatten().tolist() == [1, 2, 7, 8]
    assert levelled([long], short, None)[1].context.flatten().tolist() == [1, 2, 2, 2]
    positives, uncond = levelled([short], long, None)
    assert positives == [short]
    assert uncond.context.flatten().tolist() == [3, 4]


def test_the_empty_chunk_is_encoded_without_adapters():
    job = guided(toy_job("a", steps=1), padding="chunks")
    job = replace(job, model=replace(job.model, adapters=("an adapter",)))
    *_, empty = of(drive(txt2img(job), ToyDevice().answer)[1], EncodeText)
    assert (empty.text, empty.is_negative, empty.model.adapters) == ("", False, ())


def test_embeddings_are_listed_per_text_the_last_encoded_first():
    job = toy_job("a", text="emb1 emb2 AND emb3 emb1", steps=1)
    job = replace(job, prompt=replace(job.prompt, negative="emb1 embn"))
    expected = ("emb3", "emb1", "emb1", "emb2", "emb1", "embn")
    assert drive(txt2img(job), ToyDevice().answer)[0].used.embeddings == expected
    hires = toy_hires(job, prompt=replace(job.prompt, positive="emb9"))
    assert drive(txt2img(hires), ToyDevice().answer)[0].used.embeddings == expected
    edited = toy_job("a", text="emb1 [emb1:emb2:2] AND emb1 AND emb1", steps=4)
    assert drive(txt2img(edited), ToyDevice().answer)[0].used.embeddings == ("emb1", "emb1", "emb2")
