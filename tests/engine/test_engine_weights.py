"""Jobs whose checkpoint is to lie in memory in different ways."""

from dataclasses import replace

import pytest
from toy import ToyDevice, toy_job

from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.messages import Watch
from sdserver.jobs.events import Finished, Previewed
from sdserver.programs.table import program_for


class Noting(ToyDevice):
    """Notes how the weights lie, each time that changes."""

    def __init__(self):
        super().__init__()
        self.order = []

    def run(self, calls):
        weights = calls[0].model.weights
        if self.order[-1:] != [weights]:
            self.order.append(weights)
        return super().run(calls)


def run(jobs, watched=()):
    device, events = Noting(), []
    engine = Engine(device, program_for, Batcher(lambda _: 16), events.append, 16)
    for job in jobs:
        engine.submit(job)
    engine.watch(Watch(tuple(watched), 1, "cheap"))
    for _ in range(1000):
        if not engine.busy:
            return device, events
        engine.step()
    raise AssertionError("the engine never comes to rest")


def narrow(job):
    return replace(job, model=replace(job.model, storage="fp8"))


def test_they_do_not_run_side_by_side():
    jobs = [toy_job("a", steps=5), narrow(toy_job("b", steps=5)), narrow(toy_job("c", steps=3))]
    device, events = run(jobs)
    full, fp8 = jobs[0].model.weights, jobs[1].model.weights
    assert device.order == [full, fp8], "each would have the file read again"
    assert len([event for event in events if isinstance(event, Finished)]) == 3
    assert max(rows for kind, rows in device.batches if kind == "Predict") == 4, "equal ones share batches"


@pytest.mark.parametrize("change", [lambda job: job, narrow])
def test_both_have_previews(change):
    _, events = run([change(toy_job("a", steps=30))], ["a"])
    assert any(isinstance(event, Previewed) for event in events)
