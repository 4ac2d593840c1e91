"""Describing as a job of its own."""

import pickle
from dataclasses import replace

import pytest
import torch
from driving import drive, of
from toy import ToyDevice, toy_describe

from sdserver.calls import Caption, Interrupted, PictureFeature, Report, TextFeatures
from sdserver.jobs.job import Ranking, WordList
from sdserver.programs.describe import TEXTS, describe


def test_one_call_and_only_the_text_goes_back():
    job = toy_describe("a", side=512)
    outcome, calls = drive(describe(job), ToyDevice().answer)
    (call,) = of(calls, Caption)
    assert call == Caption(job.network, job.picture, job.beams, job.min_length, job.max_length)
    assert outcome.text == ToyDevice().answer(call) != ""
    assert [(told.step, told.steps) for told in of(calls, Report)] == [(1, 1)]
    assert len(pickle.dumps(outcome)) < 1000 < len(job.picture.pixels)


def test_an_interrupted_one_has_nothing_to_tell():
    program = describe(toy_describe("a"))
    next(program)
    with pytest.raises(Interrupted):
        program.throw(Interrupted())


# Ranking


FEATURE = torch.tensor([1.0, 0.0])


def ranked(lists, *, shows_scores=False):
    """The outcome and the calls, where a text's cosine is what it says."""
    job = replace(toy_describe("a"), ranking=Ranking("/models/CLIP", tuple(lists), shows_scores))

    def answer(call):
        if isinstance(call, PictureFeature):
            assert (call.network, call.picture) == ("/models/CLIP", job.picture)
            return FEATURE
        if isinstance(call, TextFeatures):
            return torch.tensor([[float(text), 0.5] for text in call.texts])
        return "a cat"

    return drive(describe(job), answer)


def test_what_fits_best_is_added_in_the_lists_order():
    lists = [WordList(("0.1", "0.3", "0.2")), WordList(("0.5", "0.52", "0.51"), 2), WordList(("0.4",), 9)]
    assert ranked(lists)[0].text == "a cat, 0.3, 0.52, 0.51, 0.4"
    shares = torch.tensor([0.0, 2.0, 1.0]).softmax(0)
    expected = f"a cat, (0.52:{shares[1]:.3f}), (0.51:{shares[2]:.3f})"
    assert ranked(lists[1:2], shows_scores=True)[0].text == expected


def test_long_lists_are_looked_at_in_short_calls():
    texts = tuple(str(0.9 - number / 1000) for number in range(2 * TEXTS + 1))
    outcome, calls = ranked([WordList(texts[1:] + texts[:1]), WordList(("0.1",))])
    assert outcome.text == "a cat, 0.9, 0.1"
    assert [len(call.texts) for call in of(calls, TextFeatures)] == [TEXTS, TEXTS, 1, 1]
    assert [(told.step, told.steps) for told in of(calls, Report)] == [(step, 6) for step in range(1, 7)]
