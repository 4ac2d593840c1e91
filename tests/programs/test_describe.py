"""Describing as a job of its own."""

import pickle

import pytest
from driving import drive, of
from toy import ToyDevice, toy_describe

from sdserver.calls import Caption, Interrupted, Report
from sdserver.programs.describe import describe


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
