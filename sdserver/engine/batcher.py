"""Chooses which calls run together. Pure: no process, clock or torch."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Key = tuple[Hashable, ...]


class Batchable(Protocol):
    """A call that may share a batch with others of the same key, whose first part names its kind."""

    def batch_key(self) -> Key: ...


CallT = TypeVar("CallT", bound=Batchable)


def shared_key(call: Batchable) -> Key:
    """The call's own: as many calls as can share its batch."""
    return call.batch_key()


@dataclass(frozen=True, slots=True)
class Pending(Generic[CallT]):
    """A call that waits for its batch.

    Attributes:
        owner: the job that made the call.
        slot: its place in the list of calls that the job's program yielded.
        key: the call's batch key.
    """

    owner: str
    slot: int
    call: CallT
    key: Key


class Batcher(Generic[CallT]):
    """Calls in the order they came; the longest waiting one decides the next batch's key.

    A program's next call comes only after its last one was answered, so this order is a round
    robin over programs and over keys: nobody starves, whatever mix of shapes and models waits.

    Args:
        row_budget: how many rows a batch of a key may have, at least 1.
        key_of: a call's key.
    """

    def __init__(self, row_budget: Callable[[Key], int], key_of: Callable[[CallT], Key] = shared_key) -> None:
        self._row_budget = row_budget
        self._key_of = key_of
        self._waiting: list[Pending[CallT]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self) -> Iterator[CallT]:
        """The calls that wait, longest first."""
        return (pending.call for pending in self._waiting)

    def add(self, owner: str, calls: list[CallT]) -> None:
        """Let the calls wait; slots number them from 0."""
        self._waiting += [Pending(owner, slot, call, self._key_of(call)) for slot, call in enumerate(calls)]

    def drop(self, owner: str) -> None:
        """Forget all calls of a job."""
        self._waiting = [pending for pending in self._waiting if pending.owner != owner]

    def next_batch(self) -> list[Pending[CallT]]:
        """Take the next batch: calls of one key, longest waiting first; empty if none waits."""
        if not self._waiting:
            return []
        key = self._waiting[0].key
        budget = max(1, self._row_budget(key))
        batch: list[Pending[CallT]] = []
        rest: list[Pending[CallT]] = []
        for pending in self._waiting:
            (batch if pending.key == key and len(batch) < budget else rest).append(pending)
        self._waiting = rest
        return batch
