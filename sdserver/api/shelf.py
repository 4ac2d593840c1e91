"""Results that are kept for whoever asks for them later, within a budget of bytes and seconds."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Kept:
    thing: object
    size: int
    since: float


class Shelf:
    """Keeps things by key. The oldest go first; the newest stays even if it is larger than the budget.

    Args:
        max_bytes: of all together.
        max_seconds: that one is kept.
        clock: seconds since any moment.
    """

    def __init__(self, max_bytes: int, max_seconds: float, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What is kept, together."""
        return self._bytes

    def put(self, key: Hashable, thing: object, size: int) -> None:
        """Keep a thing, in place of what the key had."""
        self.drop(key)
        self._kept[key] = _Kept(thing, size, self._clock())
        self._bytes += size
        self._tidy()

    def get(self, key: Hashable) -> object | None:
        """The key's thing, None if it is not kept (any more)."""
        self._tidy()
        kept = self._kept.get(key)
        return kept.thing if kept else None

    def drop(self, key: Hashable) -> None:
        """Let go of the key's thing, if there is one."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size

    def _tidy(self) -> None:
        now = self._clock()
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            is_too_much = self._bytes > self._max_bytes and len(self._kept) > 1
            if not is_too_much and now - oldest.since <= self._max_seconds:
                return
            self.drop(key)
