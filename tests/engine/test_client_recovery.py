"""The client against engine processes that keep dying, hang, or have to give memory back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from patience import PATIENCE
from scripted_process import ScriptedProcess

from sdserver.engine import restarts
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import (
    Collect,
    Collected,
    FromEngine,
    Hung,
    Load,
    Loaded,
    LoadFailed,
    MemoryFacts,
    Submit,
)
from sdserver.engine.restarts import MAX_DEATHS, MAX_DEATHS_LOADING
from sdserver.errors import CheckpointError, EngineFailure, NotReady
from sdserver.jobs.events import Finished, Picture, Started
from sdserver.jobs.job import Enlarge, Size

PICTURE = Picture(1, 1, b"abc")
CONFIG = EngineConfig("cpu", "fp32", "sdpa", 1, 4, 4, False, False, 1, "warning")
JOB = Enlarge("r/0", PICTURE, Size(2, 2), "None", "")
GOOD, HUGE = "/good.safetensors", "/huge.safetensors"
LOADED = Loaded(GOOD, "sd1", "cpu", "float32", 0.1)


class Rig:
    def __init__(self) -> None:
        self.messages: list[FromEngine] = []
        self.given_up: list[str] = []
        self.processes: list[ScriptedProcess] = []

        def supervise(
            config: EngineConfig,
            on_message: Callable[[FromEngine], None],
            on_exit: Callable[[int | None], None],
        ) -> ScriptedProcess:
            self.processes.append(ScriptedProcess(config, on_message, on_exit))
            return self.processes[-1]

        self.client = EngineClient(
            CONFIG,
            8,
            self.messages.append,
            lambda _: None,
            supervise,
            on_give_up=self.given_up.append,
        )
        self.client.start()

    @property
    def process(self) -> ScriptedProcess:
        return self.processes[0]

    async def crash(self) -> bool:
        """Whether another engine starts."""
        starts = self.process.starts
        self.process.die(-9)
        for _ in range(50):
            await asyncio.sleep(0.002)
            if self.process.starts > starts:
                return True
        return False


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts.random, "uniform", lambda *_: 0.0001)


def scenario(test: Callable[[Rig], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await asyncio.wait_for(test(Rig()), PATIENCE)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@scenario
async def test_an_engine_that_cannot_load_again_is_given_up_with_the_reason(rig: Rig) -> None:
    rig.process.tell(LOADED)
    ticket = rig.client.submit("r", [JOB])
    for _ in range(MAX_DEATHS_LOADING):
        assert await rig.crash()
        assert rig.process.sent[0] == Load(GOOD)
        assert rig.given_up == []
    assert not await rig.crash()
    assert len(rig.given_up) == 1
    assert f"{MAX_DEATHS_LOADING} times in a row before it had its checkpoint" in rig.given_up[0]
    with pytest.raises(EngineFailure, match="again"):
        await ticket.results()
    with pytest.raises(NotReady):
        rig.client.submit("s", [replace(JOB, id="s/0")])


@scenario
async def test_one_that_loads_but_never_finishes_anything_is_given_up(rig: Rig) -> None:
    for count in range(MAX_DEATHS - 1):
        rig.process.tell(LOADED)
        assert await rig.crash(), count
    rig.process.tell(LOADED)
    assert not await rig.crash()
    assert "without finishing anything" in rig.given_up[0]


@scenario
async def test_finished_jobs_show_that_it_is_of_use(rig: Rig) -> None:
    for count in range(2 * MAX_DEATHS):
        rig.process.tell(LOADED)
        rig.client.submit(f"r{count}", [replace(JOB, id=f"r{count}/0")])
        rig.process.tell(Started(f"r{count}/0"))
        rig.process.tell(Finished(f"r{count}/0", PICTURE))
        assert await rig.crash()
    assert rig.given_up == []


@scenario
async def test_a_checkpoint_that_kills_every_engine_leaves_the_one_that_serves(rig: Rig) -> None:
    """Each new engine loads the good one first, and dies of the other."""
    rig.process.tell(LOADED)
    load = asyncio.ensure_future(rig.client.load(HUGE))
    await asyncio.sleep(0)
    for _ in range(3):
        assert not load.done()
        assert await rig.crash()
        assert rig.process.sent[0] == Load(GOOD)
        rig.process.tell(LOADED)
    assert [message for message in rig.process.sent if isinstance(message, Load)] == [Load(GOOD)]
    with pytest.raises(CheckpointError, match="3 times while loading"):
        await load
    assert rig.client.model == LOADED
    assert rig.given_up == []


@scenario
async def test_a_failed_load_leaves_the_checkpoint_that_serves(rig: Rig) -> None:
    rig.process.tell(LOADED)
    rig.process.tell(LoadFailed(HUGE, "UnreadableCheckpoint", "cut short"))
    assert rig.client.model == LOADED
    rig.process.tell(LoadFailed(GOOD, "UnreadableCheckpoint", "gone"))
    assert rig.client.model is None


@scenario
async def test_a_hang_is_told_and_its_jobs_run_again(rig: Rig) -> None:
    ticket = rig.client.submit("r", [JOB])
    rig.process.tell(Started(JOB.id))
    rig.process.tell(Hung(9.0))
    assert await rig.crash()
    assert rig.messages[-1] == Hung(9.0)
    assert rig.process.sent == [Submit(JOB)]
    rig.process.tell(Finished(JOB.id, PICTURE))
    assert await ticket.results() == (Finished(JOB.id, PICTURE),)


@scenario
async def test_memory_is_given_back_and_told(rig: Rig) -> None:
    facts = MemoryFacts(1, 2, 3, 4)
    waits = asyncio.ensure_future(rig.client.collect())
    await asyncio.sleep(0)
    assert rig.process.sent == [Collect()]
    rig.process.tell(Collected(facts))
    assert await waits == facts
    assert rig.client.memory == facts
    waits = asyncio.ensure_future(rig.client.collect())
    await asyncio.sleep(0)
    await rig.crash()
    assert await waits is None, "nobody is left to answer"
    assert await rig.client.stacks() == "here"
