"""The engines behind the front: which has which job, and what becomes of the jobs of one that dies.

Jobs wait here and go to engines as these can use them, see `dispatch`; a single engine is sent all at once,
for it knows best what fits together. Whatever happens, at most one engine holds a job.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sdserver.engine.config import EngineConfig
from sdserver.engine.dispatch import chosen, moved, reserved
from sdserver.engine.errands import Errands
from sdserver.engine.member import Member, Supervise, checkpoint_of, names_of, total
from sdserver.engine.messages import (
    Arrange,
    BatchRan,
    Beat,
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
    Mended,
    Pulse,
    Recall,
    Returned,
    Stop,
    StopMode,
    Submit,
    Unloaded,
    Watch,
)
from sdserver.engine.restarts import Restarts
from sdserver.engine.suspects import Suspects
from sdserver.errors import EngineFailure, PoisonJob
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent, Started
from sdserver.jobs.job import Job
from sdserver.jobs.keeping import Keeping

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the pool tells and asks.

    Attributes:
        settle: told every event of a job, exactly one of them its end.
        unfinished: the jobs that have not ended, in the order in which they are to begin.
        watch_of: what an engine must be told of a job that it is given, None for nothing.
        restart: told of a job that has to begin again.
        on_message: told every message that concerns the node.
        on_restart: told the exit code of an engine process that died unasked.
        on_give_up: told why no engine is left.
    """

    settle: Callable[[JobEvent], None]
    unfinished: Callable[[], Iterable[Job]]
    watch_of: Callable[[str], Watch | None]
    restart: Callable[[str], None]
    on_message: Callable[[FromEngine], None]
    on_restart: Callable[[int | None], None]
    on_give_up: Callable[[str], None]


class Pool:
    """All engines. Lives on the event loop.

    Args:
        configs: one per engine.
        supervise: makes an engine's supervisor.
        restarts: makes what counts an engine's deaths.
        hooks: for who owns the jobs.
    """

    def __init__(
        self,
        configs: Sequence[EngineConfig],
        supervise: Supervise,
        restarts: Callable[[], Restarts],
        hooks: Hooks,
    ) -> None:
        self._hooks = hooks
        self.members: tuple[Member, ...] = tuple(
            Member(
                number=number,
                name=name,
                process=supervise(config, partial(self._observe, number), partial(self._exited, number)),
                restarts=restarts(),
                max_running=config.max_running,
                is_only=len(configs) == 1,
            )
            for number, (config, name) in enumerate(
                zip(configs, names_of([config.device for config in configs]), strict=True)
            )
        )
        self.errands = Errands(self.members)
        self.last_loaded: str | None = None
        self.model: Loaded | None = None
        self._queue: dict[str, Job] = {}
        self._holder: dict[str, Member] = {}
        self._suspects = Suspects()
        self._moving: dict[str, Member] = {}
        self._stopping: set[str] = set()
        self._keeping: Keeping | None = None
        self._is_closed = False

    @property
    def serving(self) -> tuple[Member, ...]:
        """The engines that jobs may be sent to."""
        return tuple(member for member in self.members if member.is_ready)

    def keep(self, keeping: Keeping) -> None:
        """Have so much kept in memory, by engines that start later, too."""
        if keeping != self._keeping:
            self._keeping = keeping
            for member in self.members:
                member.process.send(Keep(keeping))

    def start(self) -> None:
        """Start every engine's process."""
        for member in self.members:
            self._start(member)
        self._dispatch()

    def close(self) -> None:
        """Send no job any more."""
        self._is_closed = True
        self._suspects.clear()

    async def stop(self) -> None:
        """End every engine's process."""
        await asyncio.gather(*(member.process.stop() for member in self.members))
        self.errands.end()

    def add(self, jobs: Sequence[Job]) -> None:
        """Take jobs, which begin after those that were taken before."""
        self._queue.update((job.id, job) for job in jobs)
        self._dispatch()

    def end(self, event: JobEvent) -> None:
        """A job is over; whoever holds it, it will not be heard of again."""
        member = self._holder.pop(event.job, None)
        if member is not None:
            member.forget(event.job)
        self._queue.pop(event.job, None)
        self._moving.pop(event.job, None)
        self._suspects.forget(event.job)
        self._stopping.discard(event.job)
        self._hooks.settle(event)
        self._dispatch()

    def end_early(self, jobs: Sequence[str], mode: StopMode) -> None:
        """End jobs; those that no engine has are over at once."""
        for job in jobs:
            member = self._holder.get(job)
            if member is None:
                self.end(Cancelled(job))
                continue
            if job in member.recalled:
                self._stopping.add(job)
            member.process.send(Stop(job, mode))

    def watch(self, watch: Watch) -> None:
        """Pass on for the jobs that engines have; the others' is sent with them."""
        for member in self.members:
            sent = tuple(job for job in watch.jobs if self._holder.get(job) is member)
            if sent:
                member.process.send(replace(watch, jobs=sent))

    def arrange(self, jobs: Sequence[Job]) -> None:
        """Have jobs that wait begin in this order, and all that wait as their owner has them now."""
        self._line_up()
        if self.members[0].is_only:
            sent = tuple(job.id for job in jobs if job.id in self._holder)
            if sent:
                self.members[0].process.send(Arrange(sent))
            return
        for member in self.members:
            unbegun = tuple(job.id for job in member.unbegun())
            if unbegun and not member.is_alone:
                member.recalled.update(unbegun)
                member.process.send(Recall(unbegun))

    def _start(self, member: Member) -> None:
        member.process.start()
        if self._keeping is not None:
            member.process.send(Keep(self._keeping))
        member.is_alive = True

    def _line_up(self) -> None:
        """Have what no engine holds wait in its owner's order."""
        self._queue = {
            job.id: job
            for job in self._hooks.unfinished()
            if job.id not in self._holder and job.id not in self._suspects
        }

    def _dispatch(self) -> None:
        """Send what may be sent now."""
        if self._is_closed:
            return
        self._send_suspects()
        closed = self._closed()
        blocked: set[str | None] = set()
        if self._queue and any(member.is_open for member in self.members):
            for job in tuple(self._queue.values()):
                checkpoint = checkpoint_of(job)
                if checkpoint in blocked:
                    continue
                member = chosen(job, self.members, closed)
                if member is not None:
                    self._send(member, job)
                elif not any(one.is_open and one not in closed for one in self.members):
                    break
                else:
                    blocked.add(checkpoint)
        while (move := moved(self.members, closed | set(self._moving.values()))) is not None:
            giver, job, taker = move
            giver.recalled.add(job.id)
            self._moving[job.id] = taker
            giver.process.send(Recall((job.id,)))

    def _send_suspects(self) -> None:
        for job_id, member in self._suspects.sendable(self.members, self._holder):
            member.is_alone = True
            self._send(member, next(job for job in self._hooks.unfinished() if job.id == job_id))

    def _closed(self) -> set[Member]:
        """Engines that are to be given nothing now: they give back, or are kept free for a suspect."""
        closed = {
            member
            for member in self.members
            if any(job not in self._moving and job not in self._stopping for job in member.recalled)
        }
        if self._suspects.needs_room(self._holder):
            free = reserved(self.members)
            closed |= {free} if free is not None else set()
        return closed

    def _send(self, member: Member, job: Job) -> None:
        self._queue.pop(job.id, None)
        self._holder[job.id] = member
        member.sent[job.id] = job
        member.process.send(Submit(job))
        watch = self._hooks.watch_of(job.id)
        if watch is not None:
            member.process.send(watch)

    def _observe(self, number: int, message: FromEngine) -> None:
        member = self.members[number]
        match message:
            case Loaded():
                member.loaded(message)
                self.model, self.last_loaded = message, message.checkpoint
                self.errands.answered(member, message)
                self._dispatch()
            case LoadFailed():
                if not self._failed_to_load(member, message):
                    return
            case Unloaded(failure):
                member.is_unloaded = not failure
                self.errands.answered(member, message)
            case Returned(job):
                self._returned(member, job)
                return
            case BatchRan(kind, rows, _):
                member.batches += 1
                member.rows += rows if kind == "predict" else 0
            case Beat(memory=memory):
                member.memory = memory
                message = replace(message, memory=total(self._memories()) or memory)
            case Collected(memory):
                member.memory = memory
                self.errands.answered(member, message)
            case Hung() | LongCall() | Pulse() | Logged() | Mended():
                pass
            case _:
                self._happened(member, message)
        self._hooks.on_message(message)

    def _memories(self) -> list[MemoryFacts]:
        return [member.memory for member in self.members if member.memory is not None]

    def _failed_to_load(self, member: Member, message: LoadFailed) -> bool:
        """Take it in; whether no engine has the checkpoint, or is about to."""
        checkpoint = message.checkpoint
        member.cannot_load(checkpoint, message.message)
        others = [one for one in self.members if one is not member and not one.failed]
        rivals = [one.model for one in others if one.model is not None]
        is_all = not any(one.uses(checkpoint) for one in others)
        if not is_all:
            log.error("%s cannot load %s: %s", member.name, checkpoint, message.message)
        elif self.model is not None and self.model.checkpoint == checkpoint:
            # Another checkpoint than the one that serves: that one goes on serving.
            self.model = next((model for model in rivals if model.checkpoint != checkpoint), None)
        self.errands.answered(member, message)
        self._dispatch()
        return is_all

    def _happened(self, member: Member, event: JobEvent) -> None:
        """A job's event. What an engine says of a job that it does not hold is ignored."""
        if self._holder.get(event.job) is not member:
            return
        match event:
            case Finished(picture=picture):
                member.restarts.made_something()
                member.images += bool(picture.width)
                self.end(event)
            case Failed() | Cancelled():
                self.end(event)
            case Started(job):
                member.started.add(job)
                member.recalled.discard(job)
                self._moving.pop(job, None)
                self._stopping.discard(job)
                self._hooks.settle(event)
                self._dispatch()
            case _:
                self._hooks.settle(event)

    def _returned(self, member: Member, job_id: str) -> None:
        """An engine gave a job back: it goes where it was asked back for, or waits again."""
        if self._holder.get(job_id) is not member:
            return
        job = member.sent[job_id]
        member.forget(job_id)
        del self._holder[job_id]
        taker = self._moving.pop(job_id, None)
        if job_id in self._stopping:
            self.end(Cancelled(job_id))
            return
        is_next = all(checkpoint_of(one) != checkpoint_of(job) for one in self._queue.values())
        if taker is not None and taker.is_open and taker not in self._closed() and is_next:
            self._send(taker, job)
        else:
            self._line_up()
        self._dispatch()

    def _exited(self, number: int, exit_code: int | None) -> None:
        """An engine died: its jobs wait again, the begun ones as suspects, and another is started."""
        member = self.members[number]
        held, begun = tuple(member.sent), set(member.started)
        member.died()
        for job in held:
            del self._holder[job]
            self._moving.pop(job, None)
        self.errands.died(member, exit_code)
        self._hooks.on_restart(exit_code)
        victims = [job.id for job in self._hooks.unfinished() if job.id in begun]
        poisoned = self._suspects.died(member, victims)
        for victim in victims:
            self._hooks.restart(victim)
        self._line_up()
        for job in [job for job in held if job in self._stopping and job not in victims]:
            self.end(Cancelled(job))
        for victim in poisoned:
            message = "This job ended the engine twice; it is not tried again."
            self.end(Failed(victim, PoisonJob.__name__, message))
        pause = member.restarts.died()
        reason = member.why_no_more(exit_code, self._last_of(member))
        if reason:
            self._give_up(member, reason)
        else:
            asyncio.get_running_loop().call_later(pause, self._revive, member)
        self._dispatch()

    def _give_up(self, member: Member, reason: str) -> None:
        """Start this engine no more. Where it was the last one, nothing can be done any more."""
        member.failed = reason
        if any(not one.failed and not one.unfit for one in self.members):
            log.error("%s is given up; the others go on. %s", member.name, reason)
            self.errands.gone(member, reason)
            return
        self.close()
        self._hooks.on_give_up(reason)
        for job in tuple(self._hooks.unfinished()):
            self.end(Failed(job.id, EngineFailure.__name__, reason))
        for one in self.members:
            self.errands.gone(one, reason)

    def _last_of(self, member: Member) -> str | None:
        return member.last or self.last_loaded

    def _revive(self, member: Member) -> None:
        if self._is_closed:
            return
        self._start(member)
        last = self._last_of(member)
        if last is not None and not member.is_unloaded and last not in member.loads:
            member.is_warming = True
            member.process.send(Load(last))
        self.errands.begun(member)
        self._dispatch()
        self.errands.freed(member)
