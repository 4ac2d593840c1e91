"""Several engines that do as they please: every job ends once, no two engines have it, nothing overtakes."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from toy import toy_enlarge, toy_job

from sdserver.engine import client as client_module
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import (
    Collect,
    Collected,
    FromEngine,
    Load,
    Loaded,
    MemoryFacts,
    Recall,
    Returned,
    Stop,
    Submit,
    ToEngine,
    Unload,
    Unloaded,
)
from sdserver.engine.restarts import Restarts
from sdserver.errors import NotReady
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent, Picture, Started
from sdserver.jobs.job import Job

PICTURE = Picture(1, 1, b"abc")
TERMINAL = Finished | Failed | Cancelled
MOST_RUNNING = 2
CONFIG = EngineConfig("cpu", "fp32", "sdpa", 1, 4, MOST_RUNNING, False, False, 1, "warning")
ENGINES = st.integers(0, 2)


class Engine:
    """Does what an engine process does, a step at a time; messages on their way are there to be seen."""

    def __init__(
        self,
        machine: "Machine",
        on_message: Callable[[FromEngine], None],
        on_exit: Callable[[int | None], None],
    ) -> None:
        self.machine, self.tell, self.exit = machine, on_message, on_exit
        self.pid = 1
        self.alive = False
        self.inbox: list[ToEngine] = []
        self.outbox: list[FromEngine] = []
        self.waiting: dict[str, Job] = {}
        self.running: dict[str, Job] = {}
        self.checkpoint: str | None = None

    @property
    def held(self) -> set[str]:
        coming = {message.job.id for message in self.inbox if isinstance(message, Submit)}
        return coming | set(self.waiting) | set(self.running)

    def start(self) -> None:
        assert not self.alive
        self.alive = True

    def send(self, message: ToEngine) -> None:
        if not self.alive:
            return
        if isinstance(message, Submit):
            self.machine.sent(self, message.job)
        self.inbox.append(message)

    async def stacks(self) -> str:
        return ""

    async def stop(self) -> None:
        self.alive = False

    def read(self) -> None:
        match self.inbox.pop(0):
            case Submit(job):
                self.waiting[job.id] = job
            case Stop(job_id, _):
                if self.waiting.pop(job_id, None) or self.running.pop(job_id, None):
                    self.outbox.append(Cancelled(job_id))
            case Recall(jobs):
                for job_id in jobs:
                    if self.waiting.pop(job_id, None):
                        self.outbox.append(Returned(job_id))
            case Load(checkpoint):
                self.load(checkpoint)
            case Unload():
                self.checkpoint = None
                self.outbox.append(Unloaded())
            case Collect():
                self.outbox.append(Collected(MemoryFacts(None, None, None, None)))

    def load(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        self.outbox.append(Loaded(checkpoint, "sd1", "cpu", "float32", 0.1))

    def begin(self) -> None:
        for job in self.waiting.values() if len(self.running) < MOST_RUNNING else ():
            wanted = getattr(getattr(job, "model", None), "checkpoint", None)
            if wanted in (None, self.checkpoint) or not self.running:
                if wanted not in (None, self.checkpoint):
                    self.load(wanted)
                self.running[job.id] = self.waiting.pop(job.id)
                self.outbox.append(Started(job.id))
                return

    def finish(self) -> None:
        if self.running:
            job_id = next(iter(self.running))
            del self.running[job_id]
            self.outbox.append(Finished(job_id, PICTURE))

    def speak(self) -> None:
        self.tell(self.outbox.pop(0))

    def crash(self) -> None:
        """What it said before is heard; what it was told since is lost."""
        victims = set(self.running)
        while self.outbox:
            self.speak()
        self.machine.suspects |= victims
        self.alive, self.checkpoint = False, None
        for held in (self.waiting, self.running):
            held.clear()
        self.inbox.clear()
        self.exit(-9)


class Machine(RuleBasedStateMachine):
    @initialize(count=st.integers(1, 3))
    def begin_with(self, count: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.engines: list[Engine] = []
        self.order: list[str] = []
        self.ends: Counter[str] = Counter()
        self.suspects: set[str] = set()
        self.jobs: dict[str, Job] = {}
        self.tickets: dict[str, Any] = {}
        self.given_up: list[str] = []
        self.asking: list[asyncio.Task[Loaded]] = []
        original = client_module.Restarts
        client_module.Restarts = lambda: Restarts(spread=lambda: 0.0)  # type: ignore[assignment,misc]
        try:
            self.client = EngineClient(
                [CONFIG] * count,
                1000,
                lambda _: None,
                lambda _: None,
                self.supervise,
                on_give_up=self.given_up.append,
            )
        finally:
            client_module.Restarts = original  # type: ignore[misc]
        self.do(self.client.start)

    def supervise(
        self, _: EngineConfig, on_message: Callable[[FromEngine], None], on_exit: Callable[[int | None], None]
    ) -> Engine:
        self.engines.append(Engine(self, on_message, on_exit))
        return self.engines[-1]

    def do(self, act: Callable[[], object]) -> None:
        async def act_and_wait() -> None:
            act()
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(act_and_wait())

    def of(self, number: int) -> Engine:
        return self.engines[number % len(self.engines)]

    def sent(self, engine: Engine, job: Job) -> None:
        """Nobody else has it, and nothing that came before it and needs the same waits in the front."""
        assert not self.ends[job.id], "it is over"
        for other in self.engines:
            assert job.id not in other.held, "two have it"
        if job.id in self.suspects:
            assert not engine.held, "it runs alone"
            return
        held = set().union(*(other.held for other in self.engines))
        let_go = Returned | TERMINAL
        coming_back = {
            message.job for other in self.engines for message in other.outbox if isinstance(message, let_go)
        }
        before = self.order[: self.order.index(job.id)]
        for one in before:
            waits = not self.ends[one] and one not in held | coming_back | self.suspects
            assert not (waits and same(self.jobs[one], job)), "overtaken"

    def happened(self, event: JobEvent) -> None:
        if isinstance(event, TERMINAL):
            self.ends[event.job] += 1

    @precondition(lambda self: not self.given_up)
    @rule(checkpoint=st.sampled_from(["x", "y", "none"]), count=st.integers(1, 6))
    def submit(self, checkpoint: str, count: int) -> None:
        name = f"r{len(self.tickets)}"
        jobs: list[Job] = []
        for k in range(count):
            job_id = f"{name}/{k}"
            job = toy_job(job_id)
            model = replace(job.model, checkpoint=checkpoint)
            jobs.append(toy_enlarge(job_id) if checkpoint == "none" else replace(job, model=model))
        self.order += [job.id for job in jobs]
        self.jobs.update((job.id, job) for job in jobs)

        def act() -> None:
            self.tickets[name] = self.client.submit(name, jobs, on_event=self.happened)

        self.do(act)

    @precondition(lambda self: bool(self.tickets))
    @rule(data=st.data(), mode=st.sampled_from(["drop", "interrupt", "skip"]))
    def stop(self, data: st.DataObject, mode: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.tickets)))
        self.do(lambda: self.tickets[name].stop(mode))

    @precondition(lambda self: bool(self.tickets))
    @rule(data=st.data())
    def arrange(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(self.tickets)), unique=True))

        def act() -> None:
            before = [ticket.id for ticket in self.client.active()]
            self.client.arrange(names)
            after = [ticket.id for ticket in self.client.active()]
            assert sorted(before) == sorted(after)
            gone = [job for job in self.order if job.split("/")[0] not in after]
            self.order = gone + [job for name in after for job in self.order if job.split("/")[0] == name]

        # The order counts from now on, also for what is sent meanwhile.
        queued = {ticket.id for ticket in self.client.active() if ticket.state == "queued"}
        names = [name for name in names if name in queued]
        following = iter(names)
        there = [ticket.id for ticket in self.client.active()]
        later = [next(following) if name in names else name for name in there]
        gone = [job for job in self.order if job.split("/")[0] not in later]
        self.order = gone + [job for name in later for job in self.order if job.split("/")[0] == name]
        self.do(act)

    @rule(number=ENGINES, checkpoint=st.sampled_from(["x", "y"]))
    def load(self, number: int, checkpoint: str) -> None:
        def act() -> None:
            self.asking.append(self.loop.create_task(self.client.load(checkpoint)))

        if not self.given_up:
            self.do(act)

    @rule(number=ENGINES, times=st.integers(1, 4))
    def read(self, number: int, times: int) -> None:
        for _ in range(times):
            if self.of(number).inbox:
                self.of(number).read()

    @rule(number=ENGINES, times=st.integers(1, 3))
    def begin(self, number: int, times: int) -> None:
        for _ in range(times):
            self.of(number).begin()

    @rule(number=ENGINES)
    def finish(self, number: int) -> None:
        self.of(number).finish()

    @rule(number=ENGINES, times=st.integers(1, 6))
    def speak(self, number: int, times: int) -> None:
        for _ in range(times):
            if self.of(number).outbox:
                self.do(self.of(number).speak)

    @rule(number=ENGINES)
    def crash(self, number: int) -> None:
        if self.of(number).alive:
            self.do(self.of(number).crash)

    @rule()
    def settle(self) -> None:
        """All messages arrive, and what can begin does: then nobody idles while another has some to give."""
        self.arrive()
        held = [engine for engine in self.engines if engine.alive]
        if self.suspects - set(self.ends) or len(held) < len(self.engines) or self.given_up:
            return
        idle = any(not engine.held for engine in held)
        assert not (idle and any(len(engine.held) > MOST_RUNNING for engine in held))

    def arrive(self) -> None:
        is_quiet = False
        while not is_quiet:
            for engine in self.engines:
                while engine.inbox:
                    engine.read()
                for _ in range(MOST_RUNNING):
                    engine.begin()
                while engine.outbox:
                    self.do(engine.speak)
            is_quiet = not any(engine.inbox or engine.outbox for engine in self.engines)

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert all(count == 1 for count in getattr(self, "ends", {}).values())

    def teardown(self) -> None:
        if hasattr(self, "client"):
            try:
                self.end()
            finally:
                self.loop.run_until_complete(self.leave())
                self.loop.close()

    async def leave(self) -> None:
        await self.client.stop()
        for task in self.asking:
            task.cancel()
        await asyncio.gather(*self.asking, return_exceptions=True)

    def end(self) -> None:
        for _ in range(2 * len(self.jobs) + 10):
            self.arrive()
            for engine in self.engines:
                while engine.running:
                    engine.finish()
        self.arrive()
        assert {job for job, count in self.ends.items() if count} == set(self.jobs), "each has ended"
        assert self.client.active() == ()
        if self.given_up:
            with pytest.raises(NotReady):
                self.do(lambda: self.client.submit("late", []))


def same(one: Job, other: Job) -> bool:
    """Whether two jobs need the same checkpoint."""
    return getattr(getattr(one, "model", None), "checkpoint", None) == getattr(
        getattr(other, "model", None), "checkpoint", None
    )


TestPool = Machine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
