"""Chooses which calls run together. Pure: no process, clock or torch.

The policy, where calls of several keys wait:

1. What lets a job join the others' next batch goes first: loading what it needs, and its texts. A job asks
   for these once, so steps cannot starve for them.
2. All else takes turns, UNet batches of every shape, decoding, encoding and enlarging alike. Each key has a
   clock that goes on with each of its batches by what a job of its kind takes alone; the key whose clock is
   furthest behind is next. So pictures whose steps take ten times as long step a tenth as often: all are
   slowed by the same factor, and pictures are decoded a few at a time between the others' steps. A key that
   comes back after a while begins at the others' time: nothing is saved up.
3. Among keys with equal clocks, and among the calls of one key, the longest waiting goes first.

A program's next call comes only after its last one was answered, and a clock that waits is passed by
every other in turn: nobody starves.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from sdserver.engine.costs import Costs, Key

JOINING: Final = frozenset({"use", "text"})
"""Kinds that let a job join the others' next batch."""


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
        arrival: counts all calls.
    """

    owner: str
    slot: int
    call: CallT
    key: Key
    arrival: int


class Batcher(Generic[CallT]):
    """The calls that wait, and whose turn it is.

    Args:
        row_budget: how many rows a batch of a key may have, at least 1.
        key_of: a call's key.
        costs: what batches took; told by `ran`.
    """

    def __init__(
        self,
        row_budget: Callable[[Key], int],
        key_of: Callable[[CallT], Key] = shared_key,
        costs: Costs | None = None,
    ) -> None:
        self._row_budget = row_budget
        self._key_of = key_of
        self._costs = costs or Costs()
        self._waiting: dict[Key, list[Pending[CallT]]] = {}
        self._arrivals = 0
        self._clocks: dict[Key, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting(self) -> Iterator[CallT]:
        """The calls that wait, in no order."""
        return (pending.call for group in self._waiting.values() for pending in group)

    def rows(self, key: Key) -> int:
        """How many rows a batch of the key may have now."""
        return max(1, self._row_budget(key))

    def add(self, owner: str, calls: list[CallT]) -> None:
        """Let the calls wait; slots number them from 0."""
        for slot, call in enumerate(calls):
            key = self._key_of(call)
            self._arrivals += 1
            self._waiting.setdefault(key, []).append(Pending(owner, slot, call, key, self._arrivals))

    def drop(self, owner: str) -> None:
        """Forget all calls of a job."""
        for key, group in list(self._waiting.items()):
            self._leave(key, [pending for pending in group if pending.owner != owner])

    def next_batch(self) -> list[Pending[CallT]]:
        """Take the next batch: calls of one key, longest waiting first; empty if none waits."""
        if not self._waiting:
            return []
        key = self._next_key()
        group, budget = self._waiting[key], self.rows(key)
        self._leave(key, group[budget:])
        return group[:budget]

    def wants_time(self, batch: Sequence[Pending[CallT]]) -> bool:
        """Whether `ran` shall be told how long the batch takes."""
        key = batch[0].key
        return key[0] not in JOINING and self._costs.wants_time(key, len(batch))

    def ran(self, batch: Sequence[Pending[CallT]], seconds: float | None) -> None:
        """The batch that was taken last has run; `seconds` is None where nobody took the time.

        To be told before the answers are: what its jobs ask for next did not wait meanwhile.
        """
        key = batch[0].key
        if key[0] in JOINING:
            return
        self._costs.ran(key, len(batch), seconds)
        self._clocks[key] = self._clock(key) + (self._costs.alone(key) or 0.0)

    def _leave(self, key: Key, group: list[Pending[CallT]]) -> None:
        """Have just these calls of the key wait."""
        if group:
            self._waiting[key] = group
        else:
            del self._waiting[key]

    def _next_key(self) -> Key:
        """Whose turn it is."""
        keys = sorted(self._waiting, key=lambda key: self._waiting[key][0].arrival)
        joining = next((key for key in keys if key[0] in JOINING), None)
        if joining is not None:
            return joining
        chosen = min(keys, key=self._clock)
        self._now = self._clock(chosen)
        self._clocks = {key: clock for key, clock in self._clocks.items() if clock > self._now}
        return chosen

    def _clock(self, key: Key) -> float:
        """Not behind the time at which the last batch began."""
        return max(self._now, self._clocks.get(key, 0.0))
