"""The client against a scripted engine process: tickets, crashes, suspects, poison."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from patience import PATIENCE

from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import Keep, Load, Loaded, LoadFailed, Stop, Submit, Unload, Unloaded, Watch
from sdserver.errors import (
    CheckpointError,
    EngineFailure,
    NotReady,
    OutOfMemory,
    PoisonJob,
    QueueFull,
    RequestError,
    UnreadableCheckpoint,
)
from sdserver.jobs.events import Cancelled, Failed, Finished, Picture, Previewed, Progress, Started
from sdserver.jobs.job import Enlarge, Noise, Prompt, Sampling, Size, Txt2Img
from sdserver.jobs.keeping import Keeping
from sdserver.jobs.model import Model

PICTURE = Picture(1, 1, b"abc")
CONFIG = EngineConfig("cpu", "fp32", "sdpa", 1, 4, 4, False, False, 1, "warning")
JOB = Txt2Img(
    "r/0",
    Model("/m.safetensors"),
    Prompt("a", "", 1, "Original", 20),
    Size(64, 64),
    Noise(1, 1, 0.0, None, 0, "CPU"),
    Sampling("Euler", "Automatic", 5, 7.0, 1.0, 0.0, 0.0, float("inf"), 1.0, 0.0, 0.0, 0.0, False),
)


def jobs(request: str, count: int = 1):
    return [replace(JOB, id=f"{request}/{k}") for k in range(count)]


class ScriptedProcess:
    """Records what it is sent; the test says what it answers and when it dies."""

    pid = 1

    def __init__(self, config, on_message, on_exit):
        self.tell = on_message
        self.die = on_exit
        self.starts = 0
        self.sent = []

    def start(self):
        self.starts += 1
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    async def stop(self):
        pass

    def submitted(self):
        return [message.job.id for message in self.sent if isinstance(message, Submit)]

    def finish(self, *ids):
        for id in ids:
            self.tell(Started(id))
            self.tell(Finished(id, PICTURE))


class Rig:
    def __init__(self, max_queue=8):
        self.restarts = []
        self.messages = []

        def supervise(*args):
            self.process = ScriptedProcess(*args)
            return self.process

        self.client = EngineClient(CONFIG, max_queue, self.messages.append, self.restarts.append, supervise)
        self.client.start()

    async def crash(self):
        starts = self.process.starts
        self.process.die(-9)
        async with asyncio.timeout(PATIENCE):
            while self.process.starts == starts:
                await asyncio.sleep(0.01)


def scenario(test: Callable[[Rig], Awaitable[None]]):
    def run():
        async def main():
            await test(Rig())

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@scenario
async def test_results_come_in_job_order(rig):
    ticket = rig.client.submit("r", jobs("r", 3))
    assert (ticket.state, rig.client.waiting, rig.client.running) == ("queued", 1, 0)
    rig.process.tell(Started("r/2"))
    rig.process.tell(Progress("r/2", 2, 5))
    assert (ticket.state, ticket.steps_done, ticket.steps_total) == ("running", 2, 15)
    rig.process.finish("r/2", "r/0", "r/1")
    assert [end.job for end in await ticket.results()] == ["r/0", "r/1", "r/2"]
    assert (ticket.state, rig.client.active()) == ("done", ())


@scenario
async def test_a_failed_job_raises_its_class_once_all_ended(rig):
    ticket = rig.client.submit("r", jobs("r", 2))
    rig.process.tell(Failed("r/0", "OutOfMemory", "too big"))
    assert ticket.state != "done"
    rig.process.finish("r/1")
    with pytest.raises(OutOfMemory, match="too big"):
        await ticket.results()


@scenario
async def test_what_the_checkpoint_makes_impossible_is_the_requests_fault(rig):
    ticket = rig.client.submit("r", jobs("r", 1))
    rig.process.tell(Failed("r/0", "InvalidField", "choose another resize mode"))
    with pytest.raises(RequestError, match="resize mode"):
        await ticket.results()


@scenario
async def test_a_full_queue_refuses_before_any_work(rig):
    for k in range(8):
        rig.client.submit(f"r{k}", jobs(f"r{k}"))
    with pytest.raises(QueueFull) as refusal:
        rig.client.submit("late", jobs("late"))
    assert 1 <= refusal.value.retry_after <= 60
    assert "late/0" not in rig.process.submitted()
    rig.process.finish("r0/0")
    rig.client.submit("late", jobs("late"))
    assert "late/0" in rig.process.submitted()


@scenario
async def test_a_crash_loses_nothing(rig):
    first = rig.client.submit("a", jobs("a", 2))
    second = rig.client.submit("b", jobs("b"))
    rig.process.tell(Loaded("/m.safetensors", "sd1", "cpu", "fp32", 0.1))
    rig.process.tell(Started("a/0"))
    rig.process.tell(Progress("a/0", 3, 5))
    await rig.crash()
    assert rig.restarts == [-9]
    assert rig.process.sent[0] == Load("/m.safetensors")
    assert rig.process.submitted() == ["a/0"], "the suspect runs alone"
    assert first.steps_done == 0
    third = rig.client.submit("c", jobs("c"))
    assert rig.process.submitted() == ["a/0"]
    rig.process.finish("a/0")
    assert rig.process.submitted() == ["a/0", "a/1", "b/0", "c/0"]
    rig.process.finish("a/1", "b/0", "c/0")
    for ticket in (first, second, third):
        assert all(isinstance(end, Finished) for end in await ticket.results())


@scenario
async def test_a_job_that_kills_its_engine_twice_fails_alone(rig):
    good = rig.client.submit("good", jobs("good"))
    bad = rig.client.submit("bad", jobs("bad"))
    rig.process.tell(Started("good/0"))
    rig.process.tell(Started("bad/0"))
    await rig.crash()
    assert rig.process.submitted() == ["good/0"]
    rig.process.finish("good/0")
    assert rig.process.submitted() == ["good/0", "bad/0"]
    rig.process.tell(Started("bad/0"))
    await rig.crash()
    with pytest.raises(PoisonJob):
        await bad.results()
    assert [end.job for end in await good.results()] == ["good/0"]
    assert rig.process.submitted() == []


@scenario
async def test_what_waits_for_a_new_engine_can_be_stopped(rig):
    ticket = rig.client.submit("a", jobs("a", 2))
    rig.process.tell(Started("a/0"))
    rig.process.die(1)
    ticket.stop("interrupt")
    assert await ticket.results() == (Cancelled("a/0"), Cancelled("a/1"))


@scenario
async def test_interrupt_ends_all_and_skip_only_what_runs(rig):
    ticket = rig.client.submit("a", jobs("a", 3))
    rig.process.tell(Started("a/0"))
    ticket.stop("skip")
    assert [m for m in rig.process.sent if isinstance(m, Stop)] == [Stop("a/0", "skip")]
    ticket.stop("interrupt")
    assert [m.job for m in rig.process.sent if isinstance(m, Stop)][1:] == ["a/0", "a/1", "a/2"]


@scenario
async def test_a_failed_load_says_why(rig):
    load = asyncio.ensure_future(rig.client.load("/bad.safetensors"))
    await asyncio.sleep(0)
    assert rig.process.sent == [Load("/bad.safetensors")]
    rig.process.tell(LoadFailed("/bad.safetensors", "UnreadableCheckpoint", "cut short"))
    with pytest.raises(UnreadableCheckpoint, match="cut short"):
        await load
    assert rig.client.model is None


@scenario
async def test_after_a_failed_load_a_crash_brings_back_the_last_good_checkpoint(rig):
    rig.process.tell(Loaded("/m.safetensors", "sd1", "cpu", "fp32", 0.1))
    rig.process.tell(LoadFailed("/bad.safetensors", "UnreadableCheckpoint", "cut short"))
    await rig.crash()
    assert rig.process.sent == [Load("/m.safetensors")]


@scenario
async def test_a_load_survives_a_crash(rig):
    load = asyncio.ensure_future(rig.client.load("/m.safetensors"))
    await asyncio.sleep(0)
    await rig.crash()
    assert rig.process.sent == [Load("/m.safetensors")]
    rig.process.tell(Loaded("/m.safetensors", "sd1", "cpu", "fp32", 0.1))
    assert (await load).family == "sd1"


@scenario
async def test_a_checkpoint_that_kills_every_engine_is_given_up(rig):
    load = asyncio.ensure_future(rig.client.load("/huge.safetensors"))
    await asyncio.sleep(0)
    for _ in range(3):
        assert not load.done()
        await rig.crash()
    with pytest.raises(CheckpointError, match="3 times while loading"):
        await load


@scenario
async def test_a_stopped_client_refuses_and_settles_everything(rig):
    ticket = rig.client.submit("a", jobs("a"))
    await rig.client.stop()
    assert await ticket.results() == (Cancelled("a/0"),)
    with pytest.raises(NotReady):
        rig.client.submit("b", jobs("b"))


LOADED = Loaded("/m.safetensors", "sd1", "cpu", "float32", 0.1)


def watches(rig):
    return [message for message in rig.process.sent if isinstance(message, Watch)]


@scenario
async def test_a_listener_is_told_every_event_after_the_ticket(rig):
    heard = []
    ticket = rig.client.submit(
        "r", jobs("r", 2), on_event=lambda event: heard.append((event, ticket.state, ticket.steps_done))
    )
    events = [Started("r/0"), Progress("r/0", 2, 5), Finished("r/0", PICTURE), Cancelled("r/1")]
    for event in [*events[:3], Failed("r/0", "OutOfMemory", "late"), Started("other/0"), events[3]]:
        rig.process.tell(event)
    assert heard == list(zip(events, ["running"] * 3 + ["done"], [0, 2, 5, 10], strict=True))


@scenario
async def test_a_listener_that_fails_harms_nobody(rig):
    def fail(_):
        raise ValueError("a bug")

    ticket = rig.client.submit("r", jobs("r"), on_event=fail)
    rig.process.finish("r/0")
    assert [end.job for end in await ticket.results()] == ["r/0"]
    assert rig.client.active() == ()


@scenario
async def test_a_later_part_is_taken_by_a_full_queue(rig):
    for k in range(8):
        rig.client.submit(f"r{k}", jobs(f"r{k}"))
    with pytest.raises(QueueFull):
        rig.client.submit("r8", jobs("r8"))
    part = rig.client.submit("r0.1", jobs("r0.1"), continues=True)
    assert part in rig.client.active()
    assert rig.process.submitted()[-1] == "r0.1/0"


@scenario
async def test_enlarging_counts_as_one_step_until_more_is_known(rig):
    ticket = rig.client.submit("r", [Enlarge("r/0", PICTURE, Size(4, 4), "None", "")])
    assert ticket.steps_total == 1
    rig.process.tell(Progress("r/0", 2, 3))
    assert (ticket.steps_done, ticket.steps_total) == (2, 3)


@scenario
async def test_watching_holds_for_unfinished_jobs_and_ends(rig):
    ticket = rig.client.submit("r", jobs("r", 3))
    rig.process.finish("r/0")
    ticket.watch(2, "taesd")
    ticket.watch(2, "taesd")
    assert watches(rig) == [Watch(("r/1", "r/2"), 2, "taesd")], "said once"
    ticket.unwatch()
    ticket.unwatch()
    assert watches(rig)[1:] == [Watch(("r/1", "r/2"), 0, "taesd")]


@scenario
async def test_previews_are_the_latest_of_jobs_on_their_way(rig):
    ticket = rig.client.submit("r", jobs("r", 2))
    looks = [Picture(1, 1, bytes([k] * 3)) for k in range(4)]
    assert (ticket.previews, ticket.preview_step) == ((), 0)
    for job, look in zip(("r/1", "r/0", "r/1"), looks, strict=False):
        rig.process.tell(Previewed(job, 1, look))
    assert (ticket.previews, ticket.preview_step) == ((looks[1], looks[2]), 3)
    rig.process.finish("r/0")
    assert (ticket.previews, ticket.preview_step) == ((looks[2],), 3)


@scenario
async def test_a_watch_outlives_the_engine(rig):
    watched, other = rig.client.submit("r", jobs("r", 2)), rig.client.submit("s", jobs("s"))
    watched.watch(3, "full")
    rig.process.tell(Previewed("r/0", 1, PICTURE))
    rig.process.tell(Started("r/0"))
    await rig.crash()
    assert watched.previews == (), "it begins again"
    assert rig.process.sent == [Submit(jobs("r")[0]), Watch(("r/0",), 3, "full")], "the suspect alone"
    rig.process.finish("r/0")
    assert watches(rig)[1:] == [Watch(("r/1",), 3, "full")]
    assert other.unfinished


@scenario
async def test_what_is_watched_before_it_is_sent_is_sent_with_its_watch(rig):
    rig.client.submit("a", jobs("a"))
    rig.process.tell(Started("a/0"))
    await rig.crash()
    rig.client.submit("b", jobs("b")).watch(1, "cheap")
    assert watches(rig) == []
    rig.process.finish("a/0")
    assert rig.process.sent[-2:] == [Submit(jobs("b")[0]), Watch(("b/0",), 1, "cheap")]


@scenario
async def test_unloading_is_answered_and_reloading_asks_for_the_last_checkpoint(rig):
    with pytest.raises(CheckpointError, match="No checkpoint was loaded"):
        await rig.client.reload()
    rig.process.tell(LOADED)
    waits = asyncio.create_task(rig.client.unload())
    await asyncio.sleep(0)
    assert rig.process.sent == [Unload()]
    assert not waits.done()
    rig.process.tell(Unloaded())
    await waits
    assert rig.client.is_unloaded
    waits = asyncio.create_task(rig.client.reload())
    await asyncio.sleep(0)
    assert rig.process.sent[-1] == Load("/m.safetensors")
    rig.process.tell(LOADED)
    assert await waits == LOADED
    assert not rig.client.is_unloaded


@scenario
async def test_an_unload_that_fails_is_an_error(rig):
    waits = asyncio.create_task(rig.client.unload())
    await asyncio.sleep(0)
    rig.process.tell(Unloaded("the device is stuck"))
    with pytest.raises(EngineFailure, match="stuck"):
        await waits
    assert not rig.client.is_unloaded


@scenario
async def test_an_unload_that_meets_a_dying_engine_is_sent_to_the_next(rig):
    rig.process.tell(LOADED)
    waits = asyncio.create_task(rig.client.unload())
    await asyncio.sleep(0)
    await rig.crash()
    assert rig.process.sent == [Load("/m.safetensors"), Unload()]
    rig.process.tell(Unloaded())
    await waits
    await rig.crash()
    assert rig.process.sent == [], "an engine that begins without a checkpoint stays so"


@scenario
async def test_what_is_kept_is_told_once_and_to_every_engine(rig):
    rig.client.keep(Keeping(1, 2))
    rig.client.keep(Keeping(1, 2))
    assert rig.process.sent == [Keep(Keeping(1, 2))]
    rig.client.keep(Keeping(2, 0))
    assert rig.process.sent[1:] == [Keep(Keeping(2, 0))]
    await rig.crash()
    assert rig.process.sent == [Keep(Keeping(2, 0))]
