"""What the API needs of the engine and the catalog, as protocols: tests put their own behind them."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from sdserver.catalog.checkpoint import Checkpoint
from sdserver.engine.messages import Loaded, MemoryFacts, PreviewMethod, StopMode
from sdserver.jobs.events import Cancelled, Finished, JobEvent, Picture
from sdserver.jobs.job import Job


class Ticket(Protocol):
    """One request: n jobs, one per image. Times are of `time.monotonic`."""

    @property
    def id(self) -> str: ...
    @property
    def jobs(self) -> tuple[Job, ...]: ...
    @property
    def state(self) -> Literal["queued", "running", "done"]: ...
    @property
    def created_at(self) -> float: ...
    @property
    def started_at(self) -> float | None: ...
    @property
    def steps_done(self) -> int: ...
    @property
    def steps_total(self) -> int: ...
    @property
    def images_done(self) -> int: ...
    @property
    def previews(self) -> tuple[Picture, ...]: ...
    @property
    def preview_step(self) -> int: ...

    async def results(self) -> tuple[Finished | Cancelled, ...]:
        """Every job's end, in the jobs' order.

        Raises:
            JobError: one of the jobs failed.
        """
        ...

    def stop(self, mode: StopMode) -> None:
        """End the request early."""
        ...

    def watch(self, every: int, method: PreviewMethod) -> None:
        """Have previews made, every so many evaluations."""
        ...

    def unwatch(self) -> None:
        """Have no previews made any more."""
        ...


class Engine(Protocol):
    """The asyncio side of the engine."""

    @property
    def model(self) -> Loaded | None: ...
    @property
    def memory(self) -> MemoryFacts | None: ...
    @property
    def eta_seconds(self) -> float: ...

    def submit(
        self,
        request_id: str,
        jobs: Sequence[Job],
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        continues: bool = False,
    ) -> Ticket:
        """Accept a request, or, if it `continues` one, a later part of it, which a full queue takes too.

        Raises:
            Refused: nothing was accepted.
        """
        ...

    def arrange(self, request_ids: Sequence[str]) -> None:
        """Have requests that wait begin in this order; those that do not wait are ignored."""
        ...

    def active(self) -> Sequence[Ticket]:
        """Unfinished requests, oldest first."""
        ...

    async def load(self, checkpoint: str) -> Loaded:
        """Have a checkpoint loaded, given by its path.

        Raises:
            CheckpointError: it cannot be used.
        """
        ...

    async def unload(self) -> None:
        """Have the device's memory freed of the checkpoint; the next job brings it back."""
        ...

    async def reload(self) -> Loaded:
        """Have the last checkpoint on the device again.

        Raises:
            CheckpointError: it cannot be used.
        """
        ...


class Checkpoints(Protocol):
    """What the API needs of the catalog."""

    def find(self, name: str) -> Checkpoint:
        """The checkpoint of that name. Raises UnknownCheckpoint."""
        ...

    def find_close(self, name: str) -> Checkpoint:
        """The checkpoint that the name means most likely. Raises UnknownCheckpoint."""
        ...

    def all(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint."""
        ...

    def refresh(self) -> None:
        """Look again. Blocks."""
        ...

    def hashed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its sha256. Blocks; raises OSError."""
        ...
