"""What all engines are asked beside jobs: to load, to free memory, to give back what nothing uses."""

from collections.abc import Sequence

from sdserver import errors
from sdserver.engine.errand import Errand
from sdserver.engine.member import Member, total
from sdserver.engine.messages import (
    Answer,
    Collect,
    Collected,
    Load,
    Loaded,
    LoadFailed,
    MemoryFacts,
    Returned,
    Unload,
    Unloaded,
)
from sdserver.errors import CheckpointError, EngineFailure

MAX_DEATHS_OF_A_LOAD = 3


class Errands:
    """Asks the engines, and asks them again after they died. Lives on the event loop.

    Args:
        members: all engines.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._loads: dict[str, list[Errand[Loaded]]] = {}
        self._unloads: list[Errand[None]] = []
        self._collects: list[Errand[MemoryFacts]] = []

    async def load(self, checkpoint: str) -> Loaded:
        """Have a checkpoint loaded by every engine; the first that has it suffices.

        Raises:
            CheckpointError: none can use it.
        """
        asked = [member for member in self._members if not member.failed]
        errand: Errand[Loaded] = Errand([member.number for member in asked], first=True)
        self._loads.setdefault(checkpoint, []).append(errand)
        for member in asked:
            member.loads.setdefault(checkpoint, 0)
            member.is_warming = member.is_warming or member.model is None or bool(member.unfit)
            member.process.send(Load(checkpoint))
        loaded = await errand.result()
        if loaded is None:
            raise CheckpointError("No engine is left to load it.")
        return loaded

    async def unload(self) -> None:
        """Have every device's memory freed of the checkpoints.

        Raises:
            EngineFailure: a device refused.
        """
        asked = [member for member in self._members if not member.failed]
        errand: Errand[None] = Errand([member.number for member in asked])
        self._unloads.append(errand)
        for member in asked:
            if member.is_alive:
                member.process.send(Unload())
        await errand.result()

    async def collect(self) -> MemoryFacts | None:
        """Have memory given back that nothing uses; what is in use, None where no engine answered."""
        asked = [member for member in self._members if member.is_alive]
        errand: Errand[MemoryFacts] = Errand([member.number for member in asked])
        self._collects.append(errand)
        for member in asked:
            member.process.send(Collect())
        if await errand.result() is None:
            return None
        return total([member.memory for member in self._members if member.memory is not None])

    def answered(self, member: Member, message: Answer) -> None:
        """An engine answered; the member has taken it in."""
        match message:
            case Loaded(checkpoint=checkpoint):
                for load in self._loads.get(checkpoint, ()):
                    load.answer(member.number, message)
            case LoadFailed(checkpoint=checkpoint):
                kind = getattr(errors, message.error, CheckpointError)
                kind = kind if issubclass(kind, CheckpointError) else CheckpointError
                self._fail_load(member, checkpoint, kind(message.message))
            case Unloaded(failure):
                for unload in self._unloads:
                    if failure:
                        unload.fail(member.number, EngineFailure(failure))
                    else:
                        unload.answer(member.number, None)
            case Collected(memory):
                for collect in self._collects:
                    collect.answer(member.number, memory)
            case Returned():
                pass
        self._forget()

    def died(self, member: Member, exit_code: int | None) -> None:
        """An engine died: what it was to load may be why."""
        for collect in self._collects:
            collect.leave(member.number)
        for checkpoint in tuple(member.loads):
            deaths = member.loads[checkpoint] = member.loads[checkpoint] + 1
            if deaths >= MAX_DEATHS_OF_A_LOAD:
                del member.loads[checkpoint]
                told = (
                    f"The engine process ended {deaths} times while loading it (last exit code {exit_code}); "
                    "the machine may lack memory for this checkpoint."
                )
                self._fail_load(member, checkpoint, CheckpointError(told))
        self._forget()

    def begun(self, member: Member) -> None:
        """An engine was started again: it is asked again, before it is sent jobs."""
        for checkpoint in member.loads:
            member.process.send(Load(checkpoint))
        member.is_warming = member.is_warming or bool(member.loads)

    def freed(self, member: Member) -> None:
        """The same, after it was sent jobs."""
        if any(unload.waits_for(member.number) for unload in self._unloads):
            member.process.send(Unload())

    def gone(self, member: Member, reason: str) -> None:
        """An engine will not be started again."""
        for unload in self._unloads:
            unload.fail(member.number, EngineFailure(reason))
        for collect in self._collects:
            collect.leave(member.number)
        for checkpoint in tuple(self._loads):
            self._fail_load(member, checkpoint, CheckpointError(reason))
        member.loads.clear()
        self._forget()

    def end(self) -> None:
        """The engines were stopped: nobody need wait for their memory to be freed."""
        for member in self._members:
            for unload in self._unloads:
                unload.leave(member.number)
            for collect in self._collects:
                collect.leave(member.number)
        self._forget()

    def _fail_load(self, member: Member, checkpoint: str, error: CheckpointError) -> None:
        for load in self._loads.get(checkpoint, ()):
            load.fail(member.number, error)

    def _forget(self) -> None:
        """Drop what is over."""
        self._unloads = [unload for unload in self._unloads if not unload.is_over]
        self._collects = [collect for collect in self._collects if not collect.is_over]
        for checkpoint, loads in tuple(self._loads.items()):
            self._loads[checkpoint] = [load for load in loads if not load.is_over]
            if not self._loads[checkpoint]:
                del self._loads[checkpoint]
