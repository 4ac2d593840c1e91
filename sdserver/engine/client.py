"""The front's side of the engines: tickets in, pictures out, whatever happens to the processes.

An engine process may die at any time. Its jobs are run again, by the next one or another: a seed gives the
same picture, so their clients see a slow answer. Jobs that were on their way when it died are suspects: each
is run again alone, so that one which kills its engine twice fails alone.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from sdserver.engine.config import EngineConfig
from sdserver.engine.member import DeviceFacts, Supervise, total
from sdserver.engine.messages import BatchRan, FromEngine, Loaded, Logged, MemoryFacts
from sdserver.engine.pool import Hooks, Pool
from sdserver.engine.restarts import Restarts
from sdserver.engine.supervisor import Supervisor
from sdserver.engine.ticket import Ticket
from sdserver.errors import CheckpointError, NotReady, QueueFull
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent
from sdserver.jobs.job import Job
from sdserver.jobs.keeping import Keeping

TYPICAL_ROW_SECONDS = 0.1


class EngineClient:
    """All that the entry points see of the engines. Lives on one event loop.

    Args:
        config: what engine processes are started with; several for an engine each.
        max_queue: how many requests may be unfinished at once.
        on_message: told every message of the engines that concerns the node, after the client took it in.
        on_restart: told the exit code whenever an engine process died unasked.
        on_give_up: told why no other engine is started any more.
        supervise: makes a supervisor; tests put a scripted one here.
    """

    def __init__(
        self,
        config: EngineConfig | Sequence[EngineConfig],
        max_queue: int,
        on_message: Callable[[FromEngine], None],
        on_restart: Callable[[int | None], None],
        supervise: Supervise = Supervisor,
        on_give_up: Callable[[str], None] = lambda _: None,
    ) -> None:
        configs = (config,) if isinstance(config, EngineConfig) else tuple(config)
        hooks = Hooks(
            settle=self._settle,
            unfinished=self._unfinished,
            watch_of=lambda job_id: self._owner[job_id].watch_of(job_id),
            restart=lambda job_id: self._owner[job_id].restart(job_id),
            on_message=self._heard,
            on_restart=on_restart,
            on_give_up=self._given_up,
        )
        self._pool = Pool(configs, supervise, Restarts, hooks)
        self._max_queue = max_queue
        self._on_message = on_message
        self._on_give_up = on_give_up
        self._tickets: dict[str, Ticket] = {}
        self._owner: dict[str, Ticket] = {}
        self._row_seconds = TYPICAL_ROW_SECONDS
        self._accepting = True

    @property
    def model(self) -> Loaded | None:
        """The checkpoint that was loaded last, None where it cannot be used any more."""
        return self._pool.model

    @property
    def memory(self) -> MemoryFacts | None:
        """Of all devices together; None where it is not known of any."""
        return total([member.memory for member in self._pool.members if member.memory is not None])

    @property
    def devices(self) -> tuple[DeviceFacts, ...]:
        """Each engine, in the order of the settings."""
        return tuple(member.facts() for member in self._pool.members)

    @property
    def is_serving(self) -> bool:
        """Whether an engine takes jobs now."""
        return any(not member.is_warming and not member.unfit for member in self._pool.serving)

    @property
    def is_unloaded(self) -> bool:
        """Whether the checkpoint, `model`, was taken off the devices on request."""
        return all(member.is_unloaded or member.failed for member in self._pool.members)

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
        members = self._pool.members
        return sum(member.max_running for member in members if not member.failed) or members[0].max_running

    @property
    def eta_seconds(self) -> float:
        """A guess when all that was accepted is done, from the last batches' speed."""
        rows = sum(2 * (ticket.steps_total - ticket.steps_done) for ticket in self._tickets.values())
        return rows * self._row_seconds / max(1, len(self._pool.serving))

    @property
    def pid(self) -> int | None:
        """The first engine's process id."""
        return self._pool.members[0].process.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of all engines."""
        return tuple(pid for member in self._pool.members if (pid := member.process.pid) is not None)

    async def stacks(self) -> str:
        """Where the engine processes' threads are."""
        members = self._pool.members
        found = await asyncio.gather(*(member.process.stacks() for member in members))
        if len(members) == 1:
            return found[0]
        return "\n".join(f"{member.name}:\n{text}" for member, text in zip(members, found, strict=True))

    def keep(self, keeping: Keeping) -> None:
        """Have so many checkpoints and VAEs kept in memory, by engines that start later, too."""
        self._pool.keep(keeping)

    def start(self) -> None:
        """Start the engine processes. Call on the event loop."""
        self._pool.start()

    async def stop(self) -> None:
        """Refuse new work, drop what is unfinished, end the engine processes."""
        self._accepting = False
        self._pool.close()
        for ticket in self.active():
            ticket.stop("drop")
        await self._pool.stop()
        for job in tuple(self._unfinished()):
            self._pool.end(Cancelled(job.id))

    async def load(self, checkpoint: str) -> Loaded:
        """Have a checkpoint loaded, after the jobs accepted before.

        With several engines each loads it, and this returns when the first has.

        Raises:
            CheckpointError: it cannot be used; no engine has it now.
        """
        return await self._pool.errands.load(checkpoint)

    async def unload(self) -> None:
        """Have the devices' memory freed of the checkpoints, after the jobs accepted before.

        Jobs go on being accepted: the next one brings its checkpoint back.

        Raises:
            EngineFailure: a device refused.
        """
        await self._pool.errands.unload()

    async def reload(self) -> Loaded:
        """Have the last checkpoint on the device again, after the jobs accepted before.

        Raises:
            CheckpointError: none was loaded yet, or it cannot be used any more.
        """
        if self._pool.last_loaded is None:
            raise CheckpointError("No checkpoint was loaded yet: choose one first.")
        return await self.load(self._pool.last_loaded)

    async def collect(self) -> MemoryFacts | None:
        """Have memory given back that nothing uses; what is in use then, None if no engine is there."""
        return await self._pool.errands.collect()

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
        ticket = Ticket(request_id, jobs, self._pool.end_early, self._pool.watch, on_event)
        self._tickets[request_id] = ticket
        for job in jobs:
            self._owner[job.id] = ticket
        self._pool.add(jobs)
        return ticket

    def arrange(self, request_ids: Sequence[str]) -> None:
        """Have requests that wait begin in this order; those that do not wait are ignored."""
        tickets = [self._tickets[each] for each in dict.fromkeys(request_ids) if each in self._tickets]
        moved = {ticket.id: ticket for ticket in tickets if ticket.state == "queued"}
        # Each gets another of the places that they hold: an engine that starts is sent all in this order.
        following = iter(moved.values())
        order = [next(following) if each.id in moved else each for each in self._tickets.values()]
        self._tickets = {ticket.id: ticket for ticket in order}
        self._pool.arrange([job for ticket in moved.values() for job in ticket.jobs])

    def active(self) -> tuple[Ticket, ...]:
        """Unfinished requests; those that wait in the order in which they will begin."""
        return tuple(self._tickets.values())

    def ticket_of(self, job_id: str) -> Ticket | None:
        """The unfinished request that the job belongs to."""
        return self._owner.get(job_id)

    def _unfinished(self) -> Iterable[Job]:
        """In the order in which they are to begin."""
        return (job for ticket in self.active() for job in ticket.unfinished)

    def _settle(self, event: JobEvent) -> None:
        """Tell a job's event to its ticket, and forget what ended."""
        ticket = self._owner.get(event.job)
        if ticket is None:
            return
        ticket.observe(event)
        if isinstance(event, Finished | Failed | Cancelled):
            del self._owner[event.job]
            if ticket.state == "done":
                self._tickets.pop(ticket.id, None)

    def _heard(self, message: FromEngine) -> None:
        if isinstance(message, Logged):
            self._log(message)
            return
        if isinstance(message, BatchRan) and message.kind == "predict":
            self._row_seconds += 0.1 * (message.seconds / message.rows - self._row_seconds)
        self._on_message(message)

    def _log(self, record: Logged) -> None:
        """Log what an engine says about jobs; where all are of one request, as if that said it."""
        write = partial(logging.getLogger(record.logger).log, record.level, "%s", record.text)
        owners = {self._owner.get(job) for job in record.jobs}
        owner = owners.pop() if len(owners) == 1 else None
        if owner is None:
            write()
        else:
            owner.context.run(write)

    def _given_up(self, reason: str) -> None:
        self._accepting = False
        self._on_give_up(reason)
