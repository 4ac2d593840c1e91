"""Samplers as generators: nothing held across a yield, nothing shared between runs."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import sdserver.sampling.run
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import make_plan
from sdserver.sampling.registry import SAMPLERS

CPU = torch.device("cpu")
SHAPE = (1, 3, 3)
PACKAGE = Path(sdserver.sampling.run.__file__).parent


def _denoiser(x, sigma):
    return torch.tanh(x / (1 + sigma))


def _start(plan, noise_spec, seed):
    noise = ImageNoise(noise_spec(seed=seed), SHAPE, CPU)
    return plan.start(plan.initial(noise.first()), noise)


def test_no_context_manager_is_held_across_a_yield():
    files = sorted(PACKAGE.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.With | ast.AsyncWith):
                inner = {type(child) for child in ast.walk(node)}
                assert not inner & {ast.Yield, ast.YieldFrom}, file.name


def test_interleaved_runs_equal_solo_runs(facts, sampling, noise_spec, drive, answering):
    plans = [make_plan(sampling(s.name, steps=5 + index % 3), facts) for index, s in enumerate(SAMPLERS)]
    answers = [answering(plan, _denoiser) for plan in plans]
    solo = [drive(_start(plan, noise_spec, seed), answers[seed]) for seed, plan in enumerate(plans)]
    runs = {seed: _start(plan, noise_spec, seed) for seed, plan in enumerate(plans)}
    asked = {seed: next(run) for seed, run in runs.items()}
    results = {}
    while asked:
        for seed in list(asked):
            try:
                asked[seed] = runs[seed].send(answers[seed](*asked[seed]))
            except StopIteration as stop:
                results[seed] = stop.value
                del asked[seed]
    assert all(torch.equal(results[seed], result) for seed, result in enumerate(solo))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_a_run_changes_neither_its_input_nor_global_random_state(
    facts, sampling, noise_spec, drive, answering, sampler
):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    plan = make_plan(sampling(sampler.name, steps=6), facts)
    noise = ImageNoise(noise_spec(), SHAPE, CPU)
    x = plan.initial(noise.first())
    before = x.clone()
    replies = []

    def denoiser(x, sigma):
        reply = _denoiser(x, sigma)
        replies.append((reply, reply.clone(), x, x.clone()))
        return reply

    result = drive(plan.start(x, noise), answering(plan, denoiser))
    assert torch.equal(x, before)
    assert all(torch.equal(a, b) and torch.equal(c, d) for a, b, c, d in replies)
    assert (result.dtype, result.shape) == (torch.float32, SHAPE)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_a_suspended_run_can_be_closed_and_thrown_into(facts, sampling, noise_spec, sampler):
    plan = make_plan(sampling(sampler.name, steps=6), facts)
    closed, failed = (_start(plan, noise_spec, 1) for _ in range(2))
    next(closed)
    closed.close()
    next(failed)
    with pytest.raises(KeyError, match="device"):
        failed.throw(KeyError("device"))
