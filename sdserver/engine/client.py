"""The front's side of the engine: tickets in, pictures out, whatever happens to the process.

The engine process may die at any time. Its jobs are run again by the next one: a seed gives the
same picture, so their clients see a slow answer. Jobs that were on their way when it died are
suspects: each is run again alone, so that one which kills its engine twice fails alone.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from sdserver import errors
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import (
    Arrange,
    BatchRan,
    Beat,
    Collect,
    Collected,
    FromEngine,
    Hung,
    Keep,
    Load,
    Loaded,
    LoadFailed,
    Logged,
    LongCall,
    MemoryFacts,
    Stop,
    StopMode,
    Submit,
    ToEngine,
    Unload,
    Unloaded,
    Watch,
)
from sdserver.engine.restarts import MAX_DEATHS, MAX_DEATHS_LOADING, WINDOW_SECONDS, Restarts
from sdserver.engine.supervisor import Supervisor
from sdserver.engine.ticket import Ticket
from sdserver.errors import CheckpointError, EngineFailure, NotReady, PoisonJob, QueueFull
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent
from sdserver.jobs.job import Job
from sdserver.jobs.keeping import Keeping


class EngineProcess(Protocol):
    """What the client needs of a supervisor."""

    @property
    def pid(self) -> int | None: ...
    def start(self) -> None: ...
    def send(self, message: ToEngine) -> None: ...
    async def stacks(self) -> str: ...
    async def stop(self) -> None: ...


Supervise = Callable[
    [EngineConfig, Callable[[FromEngine], None], Callable[[int | None], None]], EngineProcess
]

MAX_CRASHES = 2
MAX_DEATHS_OF_A_LOAD = 3
TYPICAL_ROW_SECONDS = 0.1


class EngineClient:
    """All that the entry points see of the engine. Lives on one event loop.

    Args:
        config: what engine processes are started with.
        max_queue: how many requests may be unfinished at once.
        on_message: told every message of the engine, after the client took it in.
        on_restart: told the exit code whenever the engine process died unasked.
        on_give_up: told why no other engine is started any more.
        supervise: makes the supervisor; tests put a scripted one here.
    """

    def __init__(
        self,
        config: EngineConfig,
        max_queue: int,
        on_message: Callable[[FromEngine], None],
        on_restart: Callable[[int | None], None],
        supervise: Supervise = Supervisor,
        on_give_up: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._supervisor = supervise(config, self._observe, self._restart)
        self._max_queue = max_queue
        self._max_running = config.max_running
        self._on_message = on_message
        self._on_restart = on_restart
        self._on_give_up = on_give_up
        self._tickets: dict[str, Ticket] = {}
        self._owner: dict[str, Ticket] = {}
        self._loads: dict[str, list[asyncio.Future[Loaded]]] = {}
        self._load_deaths: dict[str, int] = {}
        self._unloads: list[asyncio.Future[None]] = []
        self._collects: list[asyncio.Future[MemoryFacts | None]] = []
        self._is_unloaded = False
        self._alive = False
        self._sent: set[str] = set()
        self._crashes: dict[str, int] = {}
        self._suspects: deque[str] = deque()
        self._restarts = Restarts()
        self._row_seconds = TYPICAL_ROW_SECONDS
        self._accepting = True
        self._last_loaded: str | None = None
        self._keeping: Keeping | None = None
        self.model: Loaded | None = None
        self.memory: MemoryFacts | None = None

    @property
    def is_unloaded(self) -> bool:
        """Whether the checkpoint, `model`, was taken off the device on request."""
        return self._is_unloaded

    @property
    def running(self) -> int:
        """Requests with at least one image on its way."""
        return sum(ticket.state == "running" for ticket in self._tickets.values())

    @property
    def waiting(self) -> int:
        """Requests accepted but not begun."""
        return sum(ticket.state == "queued" for ticket in self._tickets.values())

    @property
    def capacity(self) -> int:
        """Images that may be on their way at once."""
        return self._max_running

    @property
    def eta_seconds(self) -> float:
        """A guess when all that was accepted is done, from the last batches' speed."""
        rows = sum(2 * (ticket.steps_total - ticket.steps_done) for ticket in self._tickets.values())
        return rows * self._row_seconds

    @property
    def pid(self) -> int | None:
        """The engine's process id."""
        return self._supervisor.pid

    async def stacks(self) -> str:
        """Where the engine process's threads are."""
        return await self._supervisor.stacks()

    def keep(self, keeping: Keeping) -> None:
        """Have so many checkpoints and VAEs kept in memory, by engines that start later, too."""
        if keeping != self._keeping:
            self._keeping = keeping
            self._supervisor.send(Keep(keeping))

    def start(self) -> None:
        """Start the engine process. Call on the event loop."""
        self._supervisor.start()
        if self._keeping is not None:
            self._supervisor.send(Keep(self._keeping))
        self._alive = True

    async def stop(self) -> None:
        """Refuse new work, drop what is unfinished, end the engine process."""
        self._accepting = False
        for ticket in self.active():
            ticket.stop("drop")
        await self._supervisor.stop()
        self._end_unloads()
        for ticket in self.active():
            for job in ticket.unfinished:
                self._settle(Cancelled(job.id))

    async def load(self, checkpoint: str) -> Loaded:
        """Have a checkpoint loaded, after the jobs accepted before.

        Raises:
            CheckpointError: it cannot be used; the engine has no checkpoint now.
        """
        future: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._loads.setdefault(checkpoint, []).append(future)
        self._supervisor.send(Load(checkpoint))
        return await future

    async def unload(self) -> None:
        """Have the device's memory freed of the checkpoints, after the jobs accepted before.

        Jobs go on being accepted: the next one brings its checkpoint back.

        Raises:
            EngineFailure: the device refused.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unloads.append(future)
        if self._alive:
            self._supervisor.send(Unload())
        await future

    async def reload(self) -> Loaded:
        """Have the last checkpoint on the device again, after the jobs accepted before.

        Raises:
            CheckpointError: none was loaded yet, or it cannot be used any more.
        """
        if self._last_loaded is None:
            raise CheckpointError("No checkpoint was loaded yet: choose one first.")
        return await self.load(self._last_loaded)

    async def collect(self) -> MemoryFacts | None:
        """Have memory given back that nothing uses; what is left in use, None if the engine died meanwhile."""
        future: asyncio.Future[MemoryFacts | None] = asyncio.get_running_loop().create_future()
        self._collects.append(future)
        self._supervisor.send(Collect())
        return await future

    def submit(
        self,
        request_id: str,
        jobs: Sequence[Job],
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        continues: bool = False,
    ) -> Ticket:
        """Accept a request, or a later part of one.

        Args:
            request_id: unique, also among the parts of one request.
            jobs: one per image.
            on_event: told every event of the jobs after the ticket took it in.
            continues: it is part of a request that was accepted before; a full queue does not refuse it.

        Raises:
            NotReady: the client was stopped.
            QueueFull: too many requests are unfinished; nothing was accepted.
        """
        if not self._accepting:
            raise NotReady("The server is shutting down; send the request to another node.", 5)
        if len(self._tickets) >= self._max_queue and not continues:
            wait = min(60, max(1, math.ceil(self.eta_seconds / max(1, len(self._tickets)))))
            raise QueueFull(f"{len(self._tickets)} requests wait already; try again in {wait} s.", wait)
        ticket = Ticket(request_id, jobs, self._stop, self._watch, on_event)
        self._tickets[request_id] = ticket
        for job in jobs:
            self._owner[job.id] = ticket
        if not self._suspects:
            self._send(jobs)
        return ticket

    def arrange(self, request_ids: Sequence[str]) -> None:
        """Have requests that wait begin in this order; those that do not wait are ignored."""
        tickets = [self._tickets[each] for each in dict.fromkeys(request_ids) if each in self._tickets]
        moved = {ticket.id: ticket for ticket in tickets if ticket.state == "queued"}
        # Of the places that these hold, each has another: an engine that starts later is sent all in this order.
        following = iter(moved.values())
        order = [next(following) if each.id in moved else each for each in self._tickets.values()]
        self._tickets = {ticket.id: ticket for ticket in order}
        sent = tuple(job.id for ticket in moved.values() for job in ticket.jobs if job.id in self._sent)
        if sent:
            self._supervisor.send(Arrange(sent))

    def active(self) -> tuple[Ticket, ...]:
        """Unfinished requests; those that wait in the order in which they will begin."""
        return tuple(self._tickets.values())

    def ticket_of(self, job_id: str) -> Ticket | None:
        """The unfinished request that the job belongs to."""
        return self._owner.get(job_id)

    def stop_current(self, mode: StopMode) -> None:
        """End the oldest running request early; does nothing when none runs."""
        for ticket in self._tickets.values():
            if ticket.state == "running":
                ticket.stop(mode)
                return

    def _send(self, jobs: Sequence[Job]) -> None:
        """Hand jobs to the engine, each once per engine; while none lives they wait for the next."""
        if not self._alive:
            return
        for job in jobs:
            if job.id not in self._sent:
                self._sent.add(job.id)
                self._supervisor.send(Submit(job))
                watch = self._owner[job.id].watch_of(job.id)
                if watch is not None:
                    self._supervisor.send(watch)

    def _watch(self, watch: Watch) -> None:
        """Pass on for the jobs that the engine has; the others' is sent with them."""
        sent = tuple(job for job in watch.jobs if job in self._sent)
        if sent:
            self._supervisor.send(replace(watch, jobs=sent))

    def _stop(self, jobs: Sequence[str], mode: StopMode) -> None:
        for job in jobs:
            if job in self._sent:
                self._supervisor.send(Stop(job, mode))
            else:
                self._settle(Cancelled(job))

    def _observe(self, message: FromEngine) -> None:
        match message:
            case Loaded():
                self.model = message
                self._is_unloaded = False
                self._last_loaded = message.checkpoint
                self._restarts.loaded()
                self._load_deaths.pop(message.checkpoint, None)
                for future in self._loads.pop(message.checkpoint, ()):
                    if not future.done():
                        future.set_result(message)
            case LoadFailed():
                # Another checkpoint than the one that serves: that one goes on serving.
                if self.model is not None and self.model.checkpoint == message.checkpoint:
                    self.model = None
                kind = getattr(errors, message.error, CheckpointError)
                kind = kind if issubclass(kind, CheckpointError) else CheckpointError
                self._fail_load(message.checkpoint, kind(message.message))
            case Unloaded(failure):
                self._is_unloaded = not failure
                self._end_unloads(EngineFailure(failure) if failure else None)
            case BatchRan():
                if message.kind == "predict":
                    self._row_seconds += 0.1 * (message.seconds / message.rows - self._row_seconds)
            case Beat():
                self.memory = message.memory
            case Collected(memory):
                self.memory = memory
                self._end_collects(memory)
            case Hung() | LongCall() | Logged():
                pass
            case _:
                self._settle(message)
        self._on_message(message)

    def _end_unloads(self, error: EngineFailure | None = None) -> None:
        for future in self._unloads:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._unloads.clear()

    def _end_collects(self, memory: MemoryFacts | None) -> None:
        for future in self._collects:
            if not future.done():
                future.set_result(memory)
        self._collects.clear()

    def _fail_load(self, checkpoint: str, error: CheckpointError) -> None:
        self._load_deaths.pop(checkpoint, None)
        for future in self._loads.pop(checkpoint, ()):
            if not future.done():
                future.set_exception(error)

    def _settle(self, event: JobEvent) -> None:
        """Tell a job's event to its ticket, and forget what ended."""
        ticket = self._owner.get(event.job)
        if ticket is None:
            return
        ticket.observe(event)
        if isinstance(event, Finished):
            self._restarts.made_something()
        if isinstance(event, Finished | Failed | Cancelled):
            del self._owner[event.job]
            self._sent.discard(event.job)
            self._crashes.pop(event.job, None)
            if ticket.state == "done":
                self._tickets.pop(ticket.id, None)
            if event.job in self._suspects:
                self._suspects.remove(event.job)
                self._send_next()

    def _send_next(self) -> None:
        """Hand out what may run now: one suspect alone, or everything when there is none."""
        unfinished = [job for ticket in self.active() for job in ticket.unfinished]
        if self._suspects:
            unfinished = [job for job in unfinished if job.id == self._suspects[0]]
        self._send(unfinished)

    def _restart(self, exit_code: int | None) -> None:
        """The engine died: count its victims, wait a little longer each time, start another."""
        self._alive = False
        self._sent.clear()
        self.memory = None
        self._end_collects(None)
        self._on_restart(exit_code)
        victims = [
            job.id for ticket in self.active() for job in ticket.unfinished if job.id in ticket.started
        ]
        for victim in victims:
            self._crashes[victim] = self._crashes.get(victim, 0) + 1
            self._owner[victim].restart(victim)
        self._suspects = deque(dict.fromkeys([*victims, *self._suspects]))
        pause = self._restarts.died()
        if self._gives_up(exit_code):
            return
        asyncio.get_running_loop().call_later(pause, self._revive)

    def _gives_up(self, exit_code: int | None) -> bool:
        """Whether no other engine is started, because none would be of use."""
        for checkpoint in tuple(self._loads):
            deaths = self._load_deaths[checkpoint] = self._load_deaths.get(checkpoint, 0) + 1
            if deaths >= MAX_DEATHS_OF_A_LOAD:
                told = (
                    f"The engine process ended {deaths} times while loading it (last exit code {exit_code}); "
                    "the machine may lack memory for this checkpoint."
                )
                self._fail_load(checkpoint, CheckpointError(told))
        if self._restarts.cannot_load and self._last_loaded is not None and not self._is_unloaded:
            self._give_up(
                f"The engine process ended {MAX_DEATHS_LOADING} times in a row before it had its checkpoint "
                f"again (last exit code {exit_code})."
            )
            return True
        if self._restarts.are_no_use:
            self._give_up(
                f"The engine process ended {MAX_DEATHS} times within {WINDOW_SECONDS / 60:g} minutes without "
                f"finishing anything (last exit code {exit_code})."
            )
            return True
        return False

    def _give_up(self, reason: str) -> None:
        """Fail what is unfinished, and take no more."""
        self._accepting = False
        self._suspects.clear()
        for ticket in self.active():
            for job in ticket.unfinished:
                self._settle(Failed(job.id, EngineFailure.__name__, reason))
        self._end_unloads(EngineFailure(reason))
        for checkpoint in tuple(self._loads):
            self._fail_load(checkpoint, CheckpointError(reason))
        self._on_give_up(reason)

    def _revive(self) -> None:
        if not self._accepting:
            return
        self.start()
        if self._last_loaded is not None and not self._is_unloaded:
            self._supervisor.send(Load(self._last_loaded))
        for checkpoint in self._loads:
            self._supervisor.send(Load(checkpoint))
        poisoned = [job for job in self._suspects if self._crashes[job] >= MAX_CRASHES]
        self._suspects = deque(job for job in self._suspects if job not in poisoned)
        for job in poisoned:
            message = "This job ended the engine twice; it is not tried again."
            self._settle(Failed(job, PoisonJob.__name__, message))
        self._send_next()
        if self._unloads:
            self._supervisor.send(Unload())
