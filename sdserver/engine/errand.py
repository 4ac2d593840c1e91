"""Something that several engines are asked at once."""

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Errand(Generic[T]):
    """Waits for the engines' answers. Lives on the event loop.

    Args:
        engines: that are asked, by their numbers.
        first: whether one good answer suffices; else all must answer, and one error is the errand's.
    """

    def __init__(self, engines: Iterable[int], *, first: bool = False) -> None:
        self._waits = set(engines)
        self._first = first
        self._answer: T | None = None
        self._error: Exception | None = None
        self._future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._look()

    @property
    def is_over(self) -> bool:
        """Whether the asker has its answer, or left."""
        return self._future.done()

    def waits_for(self, engine: int) -> bool:
        """Whether an engine was asked and has not answered."""
        return engine in self._waits

    async def result(self) -> T | None:
        """The last good answer; None where every engine left.

        Raises:
            Exception: what an engine failed with.
        """
        return await self._future

    def answer(self, engine: int, value: T) -> None:
        """An engine answered well."""
        if engine in self._waits:
            self._answer = value
            self._waits = set() if self._first else self._waits - {engine}
            self._look()

    def fail(self, engine: int, error: Exception) -> None:
        """An engine answered that it cannot."""
        if engine in self._waits:
            self._error = error
            self.leave(engine)

    def leave(self, engine: int) -> None:
        """An engine will not answer."""
        self._waits.discard(engine)
        self._look()

    def _look(self) -> None:
        if self._waits or self._future.done():
            return
        if self._error is not None and not (self._first and self._answer is not None):
            self._future.set_exception(self._error)
        else:
            self._future.set_result(self._answer)
