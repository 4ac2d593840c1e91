"""Several engines behind one queue: who gets what, and what a death changes for the others."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from patience import PATIENCE
from scripted_process import ScriptedProcess
from toy import toy_enlarge, toy_job

from sdserver.engine import client as client_module
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.member import PREFETCH, names_of, total
from sdserver.engine.messages import (
    Beat,
    Collect,
    Collected,
    FromEngine,
    Keep,
    Load,
    Loaded,
    LoadFailed,
    MemoryFacts,
    Recall,
    Returned,
    Stop,
    Submit,
    Unloaded,
    Watch,
)
from sdserver.engine.restarts import MAX_DEATHS_LOADING, Restarts
from sdserver.errors import CheckpointError, EngineFailure, PoisonJob
from sdserver.jobs.events import Cancelled, Finished, Picture, Previewed, Started
from sdserver.jobs.job import Job
from sdserver.jobs.keeping import Keeping

PICTURE = Picture(1, 1, b"abc")
CONFIG = EngineConfig("cpu", "fp32", "sdpa", 1, 4, 4, False, False, 1, "warning")
X, Y = "/x.safetensors", "/y.safetensors"


def jobs(name: str, count: int = 1, checkpoint: str = X) -> list[Job]:
    made = (toy_job(f"{name}/{k}") for k in range(count))
    return [replace(job, model=replace(job.model, checkpoint=checkpoint)) for job in made]


class Process(ScriptedProcess):
    """One with the words of these tests."""

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]

    @property
    def submitted(self) -> list[str]:
        return [message.job.id for message in self.of(Submit)]

    def begin(self, *names: str) -> None:
        for name in names:
            self.tell(Started(name))

    def finish(self, *names: str) -> None:
        for name in names:
            self.tell(Finished(name, PICTURE))

    def load(self, checkpoint: str = X) -> None:
        self.tell(Loaded(checkpoint, "sd1", "cpu", "float32", 0.1))


class Rig:
    """Two engines that have X."""

    def __init__(self, *, loaded: bool = True, count: int = 2) -> None:
        self.messages: list[FromEngine] = []
        self.given_up: list[str] = []
        self.exits: list[tuple[int | None, bool]] = []
        self.all: list[Process] = []
        self.client = EngineClient(
            [CONFIG] * count,
            64,
            self.messages.append,
            lambda code: self.exits.append((code, self.client.is_serving)),
            self.supervise,
            on_give_up=self.given_up.append,
        )
        self.client.start()
        self.a, self.b = self.all[:2]
        for process in self.all if loaded else ():
            process.load()

    def supervise(self, *args: Any) -> Process:
        self.all.append(Process(*args))
        return self.all[-1]

    def states(self) -> list[str]:
        return [device.state for device in self.client.devices]

    async def crash(self, process: Process) -> bool:
        """Whether it starts again."""
        starts = process.starts
        process.die(-9)
        for _ in range(20):
            await asyncio.sleep(0.002)
            if process.starts > starts:
                return True
        return False


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "Restarts", lambda: Restarts(spread=lambda: 0.0))


def scenario(test: Callable[[Rig], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await asyncio.wait_for(test(Rig()), PATIENCE)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@scenario
async def test_jobs_are_shared_evenly_and_the_rest_waits_in_the_front(rig: Rig) -> None:
    ticket = rig.client.submit("r", jobs("r", 4 * PREFETCH))
    assert rig.a.submitted == [f"r/{k}" for k in range(0, 2 * PREFETCH, 2)]
    assert rig.b.submitted == [f"r/{k}" for k in range(1, 2 * PREFETCH, 2)]
    rig.b.begin("r/1")
    assert rig.b.submitted[-1] == f"r/{2 * PREFETCH}", "the next in line, where there is room"
    for process in (rig.a, rig.b) * 20:
        process.begin(*process.submitted)
        process.finish(*process.submitted)
    assert len(await ticket.results()) == 4 * PREFETCH


@scenario
async def test_no_engine_is_given_more_than_it_may_run_and_a_few(rig: Rig) -> None:
    rig.client.submit("r", jobs("r", 64))
    for _ in range(64):
        rig.a.begin(*rig.a.submitted)
    assert len(rig.a.submitted) == CONFIG.max_running + PREFETCH


@scenario
async def test_a_checkpoint_stays_where_it_is_while_that_is_no_slower(rig: Rig) -> None:
    rig.b.load(Y)
    rig.client.submit("y", jobs("y", 2, Y))
    rig.client.submit("x", jobs("x", 2, X))
    assert (rig.a.submitted, rig.b.submitted) == (["x/0", "x/1"], ["y/0", "y/1"])
    rig.client.submit("more", jobs("more", 3, Y))
    assert (rig.a.submitted[2:], rig.b.submitted[2:]) == ([], ["more/0", "more/1", "more/2"])
    rig.client.submit("many", jobs("many", 1, Y))
    assert rig.a.submitted[2:] == ["many/0"], "bringing it there is worth two jobs"


@scenario
async def test_what_waits_for_the_engine_that_has_its_checkpoint_is_overtaken_by_others_only(
    rig: Rig,
) -> None:
    rig.b.load(Y)
    for k in range(PREFETCH):
        rig.client.submit(f"x{k}", jobs(f"x{k}", 1, X))
        rig.client.submit(f"y{k}", jobs(f"y{k}", 1, Y))
    assert (len(rig.a.submitted), len(rig.b.submitted)) == (PREFETCH, PREFETCH)
    for name, checkpoint in (("y", Y), ("x", X), ("z", Y)):
        rig.client.submit(name, jobs(name, 1, checkpoint))
    rig.a.begin("x0/0")
    assert rig.a.submitted[PREFETCH:] == ["x/0"]
    rig.b.begin("y0/0", "y1/0")
    assert rig.b.submitted[PREFETCH:] == ["y/0", "z/0"]


@scenario
async def test_an_idle_engine_is_given_what_waits_in_another(rig: Rig) -> None:
    rig.client.submit("r", jobs("r", 6))
    rig.a.begin("r/0")
    rig.b.begin("r/1", "r/3", "r/5")
    rig.b.finish("r/1", "r/3", "r/5")
    assert rig.a.of(Recall) == [Recall(("r/2",))], "the first that waits"
    rig.b.finish("r/9")
    assert rig.b.submitted == ["r/1", "r/3", "r/5"], "not before the other gave it back"
    rig.a.tell(Returned("r/2"))
    assert rig.b.submitted[-1] == "r/2"
    assert rig.a.of(Recall) == [Recall(("r/2",))], "two each: that is even"
    rig.a.tell(Returned("r/2"))
    assert rig.b.submitted.count("r/2") == 1


@scenario
async def test_what_is_asked_back_too_late_stays(rig: Rig) -> None:
    ticket = rig.client.submit("r", jobs("r", 4))
    rig.a.begin("r/0")
    rig.b.begin("r/1", "r/3")
    rig.b.finish("r/1", "r/3")
    assert rig.a.of(Recall) == [Recall(("r/2",))]
    rig.a.begin("r/2")
    rig.a.finish("r/0", "r/2")
    assert [end.job for end in await ticket.results()] == ["r/0", "r/1", "r/2", "r/3"]
    assert "r/2" not in rig.b.submitted


@scenario
async def test_what_is_stopped_while_it_is_asked_back_is_over(rig: Rig) -> None:
    ticket = rig.client.submit("r", jobs("r", 4))
    rig.a.begin("r/0")
    rig.b.begin("r/1", "r/3")
    rig.b.finish("r/1", "r/3")
    ticket.stop("drop")
    assert rig.a.of(Stop) == [Stop("r/0", "drop"), Stop("r/2", "drop")]
    rig.a.tell(Returned("r/2"))
    rig.a.tell(Cancelled("r/0"))
    ends = {end.job: type(end) for end in await ticket.results()}
    assert ends == {"r/0": Cancelled, "r/1": Finished, "r/2": Cancelled, "r/3": Finished}
    assert "r/2" not in rig.b.submitted


@scenario
async def test_what_had_not_begun_goes_to_the_others_at_once(rig: Rig) -> None:
    ticket = rig.client.submit("r", jobs("r", 4))
    rig.a.begin("r/0")
    rig.b.begin("r/1")
    assert await rig.crash(rig.a)
    assert rig.exits == [(-9, True)], "the other serves"
    assert rig.b.submitted == ["r/1", "r/3", "r/2"]
    assert rig.a.sent == [Load(X)], "it is not given its suspect before it has its checkpoint"
    assert rig.states() == ["restarting", "ready"]
    rig.a.load()
    assert rig.a.submitted == ["r/0"], "alone"
    rig.client.submit("s", jobs("s"))
    assert rig.b.submitted[-1] == "s/0"
    rig.a.finish("r/0")
    rig.b.finish("r/1", "r/2", "r/3")
    assert all(isinstance(end, Finished) for end in await ticket.results())
    assert rig.states() == ["ready", "ready"]


@scenario
async def test_poison_ends_one_engine_twice_and_no_other(rig: Rig) -> None:
    bad = rig.client.submit("bad", jobs("bad"))
    rig.a.begin("bad/0")
    for _ in range(2):
        assert await rig.crash(rig.a)
        rig.a.load()
        rig.a.begin(*rig.a.submitted)
    with pytest.raises(PoisonJob):
        await bad.results()
    assert (rig.a.starts, rig.b.starts, rig.b.submitted) == (3, 1, [])


@scenario
async def test_suspects_of_an_engine_that_is_given_up_run_alone_elsewhere(rig: Rig) -> None:
    ticket = rig.client.submit("r", jobs("r", 3))
    rig.a.begin("r/0")
    rig.b.begin("r/1")
    for count in range(MAX_DEATHS_LOADING):
        assert rig.client.devices[0].state != "failed", count
        rig.a.die(-9)
        for _ in range(3000):
            await asyncio.sleep(0.002)
            if rig.a.starts == count + 2:
                break
    rig.a.die(-9)
    assert (rig.states(), rig.given_up) == (["failed", "ready"], [])
    assert "before it had its checkpoint" in rig.client.devices[0].reason
    late = rig.client.submit("s", jobs("s"))
    assert rig.b.submitted == ["r/1", "r/2"], "it runs empty for the suspect"
    rig.b.finish("r/1", "r/2")
    assert rig.b.submitted[2:] == ["r/0"]
    rig.b.finish("r/0")
    assert rig.b.submitted[3:] == ["s/0"]
    rig.b.finish("s/0")
    assert len(await ticket.results()) == 3
    assert len(await late.results()) == 1


@scenario
async def test_without_any_engine_left_everything_fails_with_the_reason(rig: Rig) -> None:
    for process in (rig.a, rig.b):
        for count in range(MAX_DEATHS_LOADING + 1):
            process.die(-9)
            for _ in range(3000 if count < MAX_DEATHS_LOADING else 1):
                await asyncio.sleep(0.002)
                if process.starts == count + 2:
                    break
        assert len(rig.given_up) == (process is rig.b)
    with pytest.raises(CheckpointError, match="No engine is left"):
        await rig.client.load(Y)


@scenario
async def test_loading_is_done_everywhere_and_told_when_the_first_has(rig: Rig) -> None:
    load = asyncio.ensure_future(rig.client.load(Y))
    await asyncio.sleep(0)
    assert (rig.a.of(Load), rig.b.of(Load)) == ([Load(Y)], [Load(Y)])
    rig.a.tell(LoadFailed(Y, "UnreadableCheckpoint", "it does not fit"))
    assert not any(isinstance(message, LoadFailed) for message in rig.messages), "the other may have it"
    rig.b.load(Y)
    assert (await load).checkpoint == Y
    rig.client.submit("r", jobs("r", 3, Y))
    assert (rig.a.submitted, rig.b.submitted) == ([], ["r/0", "r/1", "r/2"])
    load = asyncio.ensure_future(rig.client.load("/z"))
    await asyncio.sleep(0)
    for process in rig.all:
        process.tell(LoadFailed("/z", "UnreadableCheckpoint", "cut short"))
    with pytest.raises(CheckpointError, match="cut short"):
        await load
    assert len([message for message in rig.messages if isinstance(message, LoadFailed)]) == 1


def test_a_device_without_a_checkpoint_is_given_nothing() -> None:
    async def main() -> None:
        rig = Rig(loaded=False)
        load = asyncio.ensure_future(rig.client.load(X))
        await asyncio.sleep(0)
        assert rig.states() == ["starting", "starting"]
        rig.client.submit("r", jobs("r", 3))
        assert [process.submitted for process in rig.all] == [[], []]
        rig.a.tell(LoadFailed(X, "CheckpointError", "There is no such device."))
        rig.b.load()
        assert (await load).checkpoint == X
        assert [process.submitted for process in rig.all] == [[], ["r/0", "r/1", "r/2"]]
        assert rig.states() == ["failed", "ready"]
        assert rig.client.devices[0].reason == "There is no such device."
        rig.client.submit("e", [toy_enlarge("e/0")])
        assert rig.b.submitted[-1] == "e/0"

    asyncio.run(main())


@scenario
async def test_memory_is_freed_and_counted_everywhere(rig: Rig) -> None:
    unload = asyncio.ensure_future(rig.client.unload())
    await asyncio.sleep(0)
    rig.a.tell(Unloaded())
    await asyncio.sleep(0)
    assert not unload.done()
    assert not rig.client.is_unloaded
    rig.b.tell(Unloaded("it is stuck"))
    with pytest.raises(EngineFailure, match="stuck"):
        await unload
    rig.b.tell(Unloaded())
    assert rig.client.is_unloaded
    rig.a.tell(Beat(MemoryFacts(1, 10, None, None), 1, 0))
    rig.b.tell(Beat(MemoryFacts(2, 20, 5, None), 1, 0))
    both = MemoryFacts(3, 30, 5, None)
    assert rig.client.memory == both
    assert rig.messages[-1] == Beat(both, 1, 0)
    assert [device.memory and device.memory.total for device in rig.client.devices] == [10, 20]
    collect = asyncio.ensure_future(rig.client.collect())
    await asyncio.sleep(0)
    assert rig.a.of(Collect) == rig.b.of(Collect) == [Collect()]
    rig.a.tell(Collected(MemoryFacts(9, 10, None, None)))
    rig.b.die(-9)
    assert await collect == MemoryFacts(9, 10, None, None)
    assert "cpu/1:\nhere" in await rig.client.stacks()


@scenario
async def test_previews_and_stops_go_to_the_engine_that_has_the_job(rig: Rig) -> None:
    ticket = rig.client.submit("r", jobs("r", 2))
    ticket.watch(2, "cheap")
    assert (rig.a.of(Watch), rig.b.of(Watch)) == (
        [Watch(("r/0",), 2, "cheap")],
        [Watch(("r/1",), 2, "cheap")],
    )
    rig.a.begin("r/0")
    rig.b.begin("r/1")
    rig.b.tell(Previewed("r/1", 1, PICTURE))
    assert ticket.previews == (PICTURE,)
    rig.b.tell(Previewed("r/0", 1, PICTURE))
    assert ticket.previews == (PICTURE,), "it does not have that one"
    ticket.stop("interrupt")
    assert (rig.a.of(Stop), rig.b.of(Stop)) == ([Stop("r/0", "interrupt")], [Stop("r/1", "interrupt")])
    rig.client.keep(Keeping(1, 2))
    assert rig.a.of(Keep) == rig.b.of(Keep) == [Keep(Keeping(1, 2))]


@scenario
async def test_arranging_counts_for_what_engines_were_given_too(rig: Rig) -> None:
    last = 2 * PREFETCH + 3
    for k in range(last + 1):
        rig.client.submit(f"{k}", jobs(f"{k}"))
    rig.a.begin("0/0")
    rig.b.begin("1/0")
    order = [last, *range(2, last)]
    rig.client.arrange([str(k) for k in order])
    assert [ticket.id for ticket in rig.client.active()] == ["0", "1", *map(str, order)]
    for process in rig.all:
        (recall,) = process.of(Recall)
        assert len(recall.jobs) == PREFETCH
        for job in recall.jobs:
            assert len(process.submitted) == PREFETCH + 1, "nothing before all is back"
            process.tell(Returned(job))
    evens = [last, *range(2, 2 * PREFETCH, 2)]
    odds = [*range(3, 2 * PREFETCH, 2), 2 * PREFETCH]
    assert rig.a.submitted[PREFETCH + 1 :] == [f"{k}/0" for k in evens]
    assert rig.b.submitted[PREFETCH + 1 :] == [f"{k}/0" for k in odds], "these had to come back first"


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        (["cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]),
        (["cpu", "cuda:0", "cpu"], ["cpu/0", "cuda:0", "cpu/1"]),
        (["auto"], ["auto"]),
    ],
)
def test_devices_have_names_of_their_own(devices: Sequence[str], names: Sequence[str]) -> None:
    assert names_of(list(devices)) == names


def test_memory_of_none_is_not_known() -> None:
    assert total([]) is None
    assert total([MemoryFacts(None, None, None, None)] * 2) == MemoryFacts(None, None, None, None)
