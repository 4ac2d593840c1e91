"""Previews: what they may cost, of whom they are made, and that jobs never notice them."""

import logging
from itertools import count

import pytest
import torch
from toy import ToyDevice, toy_hires, toy_job, toy_refiner

from sdserver.calls import Preview, Report
from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.messages import Watch
from sdserver.engine.previews import PreviewBudget, Previews
from sdserver.errors import OutOfMemory
from sdserver.jobs.events import Finished, Picture, Previewed
from sdserver.jobs.model import Model
from sdserver.programs.table import program_for

LATENT = torch.zeros(4, 8, 8)


def looked(budget, steps, step_seconds, price, method="cheap", cells=64):
    """Work so many steps and make every preview that the budget allows: how long they all took."""
    spent = 0.0
    for _ in range(steps):
        budget.worked(step_seconds)
        made = budget.affordable(method, cells, 1)
        if made:
            budget.spent(method, cells, made, price)
            spent += price
    return spent


@pytest.mark.parametrize("price", [0.0005, 0.02, 0.3, 2.0])
@pytest.mark.parametrize("method", ["cheap", "taesd", "full"])
def test_previews_take_their_share_of_the_time_and_no_more(price, method):
    budget, steps, step = PreviewBudget(), 2000, 0.1
    spent = looked(budget, steps, step, price, method)
    assert spent <= 0.04 * steps * step + price, "one that was taken for cheaper than it is"
    assert spent >= min(0.5 * 0.04 * steps * step, 0.9 * price * steps), "and the share is used"


def test_the_first_preview_waits_until_its_guessed_price_is_saved():
    budget = PreviewBudget()
    budget.worked(1.0)
    steps = 1
    while not budget.affordable("full", 64, 1):
        budget.worked(1.0)
        steps += 1
    assert steps == 50, "two steps long, at a share of 4 %"


def test_what_the_first_preview_prepares_is_not_owed_for():
    budget, cold, steps = PreviewBudget(), 5.0, []
    for step in range(100):
        budget.worked(0.1)
        if budget.affordable("cheap", 64, 1):
            budget.spent("cheap", 64, 1, 0.001 if steps else cold)
            steps.append(step)
    assert len(steps) >= 90, "one preview costs its share of a step"


def test_no_more_is_saved_than_the_previews_that_are_wanted_cost():
    budget = PreviewBudget()
    looked(budget, 100, 0.1, 0.001)
    for _ in range(1000):
        budget.worked(0.1)
        budget.affordable("cheap", 64, 0)
    assert budget.affordable("cheap", 64, 8) == 0
    budget.worked(0.1)
    assert 1 <= budget.affordable("cheap", 64, 8) <= 4


def test_a_larger_latent_costs_more():
    budget = PreviewBudget()
    looked(budget, 200, 0.1, 0.01)
    budget.worked(1.0)
    assert budget.affordable("cheap", 64, 1) == 1
    assert budget.affordable("cheap", 64 * 64, 1) == 0


class Bench:
    """An engine whose clock stands still, so that previews cost nothing, or as the test says."""

    def __init__(self, device=None, clock=lambda: 0.0, max_running=16):
        self.device = device or ToyDevice()
        self.events = []
        self.engine = Engine(
            self.device, program_for, Batcher(lambda _: 16), self.events.append, max_running, clock
        )

    def run(self, *jobs, every=1, method="cheap"):
        for job in jobs:
            self.engine.submit(job)
        self.engine.watch(Watch(tuple(job.id for job in jobs), every, method))
        while self.engine.busy:
            self.engine.step()
        return self

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4]), (7, [])])
def test_a_watched_job_is_shown_every_so_many_evaluations(every, steps):
    bench = Bench().run(toy_job("a", steps=6), every=every)
    shown = bench.of(Previewed)
    assert [event.step for event in shown] == steps
    assert all((event.job, event.picture.width, event.picture.height) == ("a", 8, 8) for event in shown)
    assert len({event.picture.pixels for event in shown[:4]}) == len(steps[:4]), "each of another latent"


def test_nobody_else_is_shown_and_nobody_after_the_watch_ends():
    bench = Bench()
    for name in ("a", "b"):
        bench.engine.submit(toy_job(name, steps=8))
    bench.engine.watch(Watch(("a", "gone"), 1, "cheap"))
    while len(bench.of(Previewed)) < 3:
        bench.engine.step()
    bench.engine.watch(Watch(("a",), 0, "cheap"))
    while bench.engine.busy:
        bench.engine.step()
    assert [(event.job, event.step) for event in bench.of(Previewed)] == [("a", 1), ("a", 2), ("a", 3)]


def test_a_job_may_be_watched_before_it_begins():
    bench = Bench(max_running=1).run(toy_job("a", steps=2), toy_job("b", steps=2))
    assert [event.job for event in bench.of(Previewed)] == ["a", "a", "b", "b"]


@pytest.mark.parametrize(("method", "batches"), [("cheap", [3] * 4), ("taesd", [3] * 4), ("full", [1] * 4)])
def test_latents_of_one_shape_are_shown_together_but_decoded_singly(method, batches):
    bench = Bench().run(*[toy_job(f"j{k}", seed=k, steps=4) for k in range(3)], method=method)
    assert [rows for kind, rows in bench.device.batches if kind == "Preview"] == batches
    if method == "full":
        assert [event.job for event in bench.of(Previewed)][:3] == ["j0", "j1", "j2"], "in turn"


@pytest.mark.parametrize("method", ["cheap", "full"])
def test_jobs_do_not_notice_that_they_are_watched(method):
    job = toy_hires(toy_job("a", steps=5, sampler="DPM++ 2M"), refiner=toy_refiner(0.6))
    watched = Bench().run(job, method=method)
    alone = Bench().run(job, every=0)
    assert watched.of(Finished) == alone.of(Finished)
    assert [b for b in watched.device.batches if b[0] != "Preview"] == alone.device.batches
    assert watched.of(Previewed)


class Failing(ToyDevice):
    """Makes no previews: it answers with an error, or raises it."""

    def __init__(self, raises):
        super().__init__()
        self.raises = raises

    def answer(self, call):
        if isinstance(call, Preview):
            if self.raises:
                raise RuntimeError("no such kernel")
            return OutOfMemory("No memory.")
        return super().answer(call)


@pytest.mark.parametrize("raises", [True, False])
def test_a_preview_that_fails_is_told_once_and_its_job_goes_on(raises, caplog):
    with caplog.at_level(logging.WARNING):
        bench = Bench(Failing(raises)).run(toy_job("a", steps=4))
    assert len(bench.of(Finished)) == 1
    assert bench.of(Previewed) == []
    assert len([record for record in caplog.records if "previews" in record.getMessage()]) == 1


def test_previews_wait_for_the_checkpoint_that_their_latent_is_of():
    device, shown = ToyDevice(), []
    previews = Previews(device, shown.append, lambda: 0.0, PreviewBudget())
    previews.watch("a", 1, "cheap")
    previews.note("a", Report(1, 4, Model("/one"), LATENT))
    previews.stepped("/other", 0.1)
    assert shown == []
    for _ in range(2):
        previews.stepped("/one", 0.1)
    assert [(event.job, event.step) for event in shown] == [("a", 1)], "each latent once"


def test_what_the_device_still_had_to_do_is_no_price_of_a_preview():
    """Each step leaves 90 ms of work behind that a preview of 10 ms has to wait for."""
    now = [0.0]

    class Behind(ToyDevice):
        def settle(self):
            now[0] += 0.09

        def run(self, calls):
            now[0] += 0.01
            return super().run(calls)

    shown = []
    previews = Previews(Behind(), shown.append, lambda: now[0], PreviewBudget())
    previews.watch("a", 1, "cheap")
    for step in range(1000):
        now[0] += 0.1
        previews.note("a", Report(step + 1, 1000, Model("/one"), LATENT))
        previews.stepped("/one", 0.1)
    assert 0.5 * 0.04 * now[0] <= 0.01 * len(shown) <= 0.041 * now[0]


def test_an_engine_spends_its_share_of_the_time_on_previews():
    ticks = count()
    bench = Bench(clock=lambda: float(next(ticks)))
    bench.run(*[toy_job(f"j{k}", steps=400, cfg=1.0) for k in range(2)])
    batches = [kind for kind, _ in bench.device.batches]
    share = batches.count("Preview") / batches.count("Predict")
    assert 0.02 < share < 0.3
    assert all(isinstance(event.picture, Picture) for event in bench.of(Previewed))
