"""Enlarging as a job of its own."""

from dataclasses import replace

import pytest
from driving import drive, of
from toy import ToyDevice, toy_enlarge

from sdserver.calls import Interrupted, Report, Upscale
from sdserver.errors import EngineFailure
from sdserver.programs.enlarge import enlarge


@pytest.mark.parametrize(("size", "rounds"), [(60, 1), (64, 1), (100, 2), (300, 3)])
def test_a_network_is_applied_until_it_suffices_and_the_size_is_exact(size, rounds):
    outcome, calls = drive(enlarge(toy_enlarge("a", size=size)), ToyDevice().answer)
    assert (outcome.picture.width, outcome.picture.height) == (size, size)
    assert [(call.step, call.steps) for call in of(calls, Report)] == [(k, k) for k in range(1, rounds + 1)]
    assert len(of(calls, Upscale)) == rounds
    assert not outcome.interrupted


def test_a_filter_and_making_smaller_need_no_device():
    enlarged = replace(toy_enlarge("a", size=40), upscaler="Nearest", path="")
    for job in (enlarged, toy_enlarge("a", size=12)):
        with pytest.raises(StopIteration) as end:
            next(enlarge(job))
        assert len(end.value.value.picture.pixels) == job.size.width * job.size.height * 3


def test_an_unknown_upscaler_is_an_error():
    with pytest.raises(EngineFailure, match="no upscaler 'Net'"):
        next(enlarge(replace(toy_enlarge("a"), path="")))


def test_an_interrupted_one_has_nothing_to_show():
    program = enlarge(toy_enlarge("a"))
    next(program)
    with pytest.raises(Interrupted):
        program.throw(Interrupted())
