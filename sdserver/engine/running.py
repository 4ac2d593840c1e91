"""A program on its way, and what its calls and its end mean to others."""

from dataclasses import dataclass, field
from typing import Any, Final

from sdserver.calls import Decode, DeviceCall, Predict, WithoutModel
from sdserver.errors import EngineFailure, SdServerError
from sdserver.jobs.events import Finished
from sdserver.jobs.job import Job, WithoutCheckpoint
from sdserver.programs.program import Outcome, Program

GUIDED_ROWS: Final = 2
CELL: Final = 8


@dataclass(slots=True)
class Running:
    """A program on its way: the calls it waits for and the answers so far.

    Attributes:
        rows: that its next UNet batch is expected to have of it.
    """

    job: Job
    program: Program
    rows: int = GUIDED_ROWS
    single: bool = True
    answers: list[Any] = field(default_factory=list)
    missing: int = 0

    def shares_size(self, job: Job) -> bool:
        """Whether its UNet rows and the job's may share batches, by the size of their pictures."""
        mine = self.job
        if isinstance(mine, WithoutCheckpoint) or isinstance(job, WithoutCheckpoint):
            return False
        return mine.size == job.size

    def wait_for(self, wanted: DeviceCall | list[DeviceCall]) -> list[DeviceCall]:
        """It yielded this; returns the calls."""
        self.single = not isinstance(wanted, list)
        calls = wanted if isinstance(wanted, list) else [wanted]
        self.rows = _rows(calls, self.rows)
        self.answers = [None] * len(calls)
        self.missing = len(calls)
        return calls


def _rows(calls: list[DeviceCall], before: int) -> int:
    """How many rows the next UNet batch is expected to have of a job that asks for these calls."""
    match calls[0]:
        case Predict():
            return len(calls)
        case Decode(as_values=False):
            return 0
        case _:
            return before


def checkpoint_of(call: DeviceCall) -> str | None:
    """The checkpoint that a call runs on, see `Model.weights`; None if it needs none."""
    return None if isinstance(call, WithoutModel) else call.model.weights


def finished(job_id: str, outcome: Outcome) -> Finished:
    """The end of a job that has a result."""
    return Finished(
        job_id,
        outcome.picture,
        outcome.interrupted,
        outcome.used,
        outcome.new_parts,
        outcome.text,
        outcome.first,
        outcome.before_faces,
    )


def describe(error: object) -> tuple[str, str]:
    """Name and sentence of an error; what is not of our tree is an EngineFailure."""
    if isinstance(error, SdServerError):
        return type(error).__name__, str(error)
    return EngineFailure.__name__, f"{type(error).__name__}: {error}"
