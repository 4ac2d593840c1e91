"""Waiting jobs in another order: in the queue, the engine and the client."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE
from toy import toy_enlarge, toy_job

from sdserver.engine.messages import Arrange, Load
from sdserver.engine.waiting import Waiting
from sdserver.jobs.events import Finished, Started
from tests.engine.test_client import jobs, scenario
from tests.engine.test_engine import TERMINAL, Bench

IDS = st.lists(st.sampled_from("abcdefgh"), unique=True)


def waiting_for(items):
    waiting = Waiting(lambda: 0.0)
    for item in items:
        waiting.add(Load("x") if item == "-" else toy_job(item))
    return waiting


def order(waiting):
    taken = []
    while (item := waiting.take(None, lambda _: True, 0.0)) is not None:
        taken.append(getattr(item, "id", "-"))
    return "".join(taken)


def test_jobs_change_the_places_that_they_hold():
    waiting = waiting_for("ab-cd")
    waiting.arrange(["d", "x", "a", "d"])
    assert order(waiting) == "db-ca"
    waiting.arrange(["a"])
    waiting.arrange([])


@given(IDS, IDS)
def test_what_is_not_named_keeps_its_place(there, wanted):
    waiting = waiting_for(there)
    waiting.arrange(wanted)
    after = order(waiting)
    assert sorted(after) == sorted(there)
    assert [one for one in after if one in wanted] == [one for one in wanted if one in there]
    assert all(after[place] == one for place, one in enumerate(there) if one not in wanted)


def test_the_engine_begins_in_the_new_order_and_each_job_ends_once():
    bench = Bench(max_running=1)
    for name in "abcd":
        bench.engine.submit(toy_job(name, steps=2))
    bench.engine.step()
    bench.engine.arrange(["d", "c", "a", "b"])
    bench.finish()
    assert [event.job for event in bench.of(Started)] == ["a", "d", "c", "b"]
    assert all(isinstance(bench.end_of(name), Finished) for name in "abcd")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["submit", "arrange", "stop", "step"]), IDS), max_size=25))
def test_whatever_is_arranged_each_job_ends_once(acts):
    bench, submitted = Bench(max_running=2), []
    for act, ids in acts:
        for name in ids if act in ("submit", "stop") else ():
            if act == "stop":
                bench.engine.stop(name, "drop")
            elif name not in submitted:
                submitted.append(name)
                bench.engine.submit(toy_enlarge(name) if name == "e" else toy_job(name, steps=2))
        if act == "arrange":
            bench.engine.arrange(ids)
        elif act == "step" and bench.engine.busy:
            bench.engine.step()
    bench.finish()
    assert sorted(event.job for event in bench.of(TERMINAL)) == sorted(submitted)


@scenario
async def test_the_client_tells_what_it_sent_and_keeps_the_order(rig):
    for name in "abc":
        rig.client.submit(name, jobs(name, 2))
    rig.process.tell(Started("a/0"))
    rig.client.arrange(["c", "a", "nobody", "b"])
    (message,) = [one for one in rig.process.sent if isinstance(one, Arrange)]
    assert message.jobs == ("c/0", "c/1", "b/0", "b/1")
    assert [ticket.id for ticket in rig.client.active()] == ["a", "c", "b"]


@scenario
async def test_an_engine_that_starts_anew_is_given_the_jobs_in_the_new_order(rig):
    for name in "abc":
        rig.client.submit(name, jobs(name))
    starts = rig.process.starts
    rig.process.die(-9)
    rig.client.arrange(["c", "b", "a"])
    async with asyncio.timeout(PATIENCE):
        while rig.process.starts == starts:
            await asyncio.sleep(0.01)
    assert rig.process.submitted() == ["c/0", "b/0", "a/0"]
    assert not any(isinstance(one, Arrange) for one in rig.process.sent)
