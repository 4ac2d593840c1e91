"""What has not begun, and which of it is next. Pure but for the clock."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sdserver.engine.messages import Load, Unload
from sdserver.jobs.job import Job, WithoutCheckpoint

PATIENCE: Final = 4.0
"""How long jobs may overtake one that needs another checkpoint, in times that switching takes."""

Item = Job | Load | Unload


class Waiting:
    """Jobs, loads and unloads in the order they came.

    Each waits for those before it. There are three exceptions:

    - Jobs that need no checkpoint wait for nobody.
    - A job of another checkpoint than the running ones' waits until these have ended. Meanwhile jobs of the
      running ones' checkpoint overtake it, so that requests for two checkpoints in turn do not switch each
      time; but only for as long as pays, a few times what switching takes.
    - Nothing overtakes a load or unload.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._items: deque[Item] = deque()
        self._held: tuple[str, float] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def jobs(self) -> Iterator[Job]:
        """The jobs among it."""
        return (item for item in self._items if not isinstance(item, Load | Unload))

    def add(self, item: Item) -> None:
        """Queue it."""
        self._items.append(item)

    def remove(self, job_id: str) -> bool:
        """Forget a job; False if it does not wait."""
        found = next((job for job in self.jobs() if job.id == job_id), None)
        if found is not None:
            self._items.remove(found)
        return found is not None

    def arrange(self, job_ids: Sequence[str]) -> None:
        """Have jobs stand in this order, in the places that they hold; those that do not wait are ignored."""
        waiting = {job.id: job for job in self.jobs()}
        wanted = [waiting[job_id] for job_id in dict.fromkeys(job_ids) if job_id in waiting]
        moved = {job.id for job in wanted}
        following = iter(wanted)
        self._items = deque(
            next(following) if not isinstance(item, Load | Unload) and item.id in moved else item
            for item in self._items
        )

    def take_without_checkpoint(self) -> Job | None:
        """Take the next job that needs no checkpoint; None if none waits."""
        found = next((item for item in self._items if isinstance(item, WithoutCheckpoint)), None)
        if found is not None:
            self._items.remove(found)
        return found

    def take(
        self, checkpoint: str | None, has_room: Callable[[Job], bool], switch_seconds: float
    ) -> Item | None:
        """Take what may begin next; None if nothing may.

        Args:
            checkpoint: that the running jobs use; None if none does.
            has_room: whether the running jobs leave room for a job of their checkpoint; where they do not,
                it waits, and nothing overtakes it.
            switch_seconds: what a switch to another checkpoint takes.
        """
        found = self._next(checkpoint, has_room, PATIENCE * switch_seconds)
        if found is not None:
            self._items.remove(found)
        return found

    def _next(self, checkpoint: str | None, has_room: Callable[[Job], bool], patience: float) -> Item | None:
        is_first = True
        for item in self._items:
            if checkpoint is None or isinstance(item, WithoutCheckpoint):
                return item
            match item:
                case Unload():
                    return None
                case Load(wanted):
                    return item if wanted == checkpoint else None
            if item.model.weights == checkpoint:
                return item if has_room(item) else None
            if is_first and self._has_waited(item.id) > patience:
                return None
            is_first = False
        return None

    def _has_waited(self, job_id: str) -> float:
        """Seconds since the job was first in line and needed another checkpoint than the running ones."""
        if self._held is None or self._held[0] != job_id:
            self._held = (job_id, self._clock())
        return self._clock() - self._held[1]
