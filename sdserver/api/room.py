"""How much may wait: requests, and the memory that they hold while they do."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sdserver.errors import QueueFull
from sdserver.jobs.job import Job

if TYPE_CHECKING:
    from sdserver.api.translate.plan import Plan

LEAST_WAIT: Final = 1
LONGEST_WAIT: Final = 60


class Room:
    """Refuses what there is no room for. Lives on the event loop.

    Args:
        unfinished: how many requests were accepted and have not ended.
        most: of them.
        most_bytes: of the bodies and pictures of all of them together; a single request may have more.
        seconds: a guess when all that was accepted is done.
    """

    def __init__(
        self, unfinished: Callable[[], int], most: int, most_bytes: int, seconds: Callable[[], float]
    ) -> None:
        self._unfinished = unfinished
        self._most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes that requests hold now."""
        return self._held

    def check(self) -> None:
        """See that one more request may be accepted.

        Raises:
            QueueFull: as many as may are unfinished.
        """
        count = self._unfinished()
        if count >= self._most:
            wait = self._wait(count)
            raise QueueFull(f"{count} requests wait already; try again in {wait} s.", wait)

    def take(self, count: int, own: int = 0) -> None:
        """Bytes come that a request holds.

        Args:
            count: of them.
            own: what the same request holds already; what it holds alone is not refused.

        Raises:
            QueueFull: requests hold as much as may; nothing was taken.
        """
        if self._held > own and self._held + count > self._most_bytes:
            wait = self._wait(self._unfinished())
            megabytes = self._most_bytes // 10**6
            message = f"Requests hold {megabytes:,} MB of pictures already; try again in {wait} s."
            raise QueueFull(message, wait)
        self._held += count

    def give(self, count: int) -> None:
        """Bytes are let go."""
        self._held -= count

    @contextmanager
    def holding(self, count: int, own: int = 0) -> Iterator[None]:
        """Hold bytes for a while; see `take`."""
        self.take(count, own)
        try:
            yield
        finally:
            self.give(count)

    def _wait(self, count: int) -> int:
        each = min(LONGEST_WAIT, self._seconds() / max(1, count))
        return max(LEAST_WAIT, math.ceil(each))


def bytes_of_jobs(jobs: Sequence[Job]) -> int:
    """What the jobs' pictures take while they wait; each is counted once, however many jobs have it."""
    held: dict[int, int] = {}
    for job in jobs:
        picture = getattr(job, "init", None) or getattr(job, "picture", None)
        mask = getattr(job, "mask", None)
        for pixels in (picture.pixels if picture else b"", mask.pixels if mask else b""):
            held[id(pixels)] = len(pixels)
    return sum(held.values())


def bytes_of_finishes(plans: Sequence["Plan"]) -> int:
    """What is kept to finish the plans' pictures with, each once."""
    finishes = [finish for plan in plans if plan.pictures for finish in plan.pictures.finishes]
    kept = [image for each in finishes for image in (each.overlay, each.mask, each.original) if image]
    sizes = {id(image): image.width * image.height * len(image.getbands()) for image in kept}
    return sum(sizes.values())
