"""A picture described in words: the job, read top to bottom."""

from sdserver.calls import Caption, Report
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Describe
from sdserver.programs.program import Outcome, Program

NO_PICTURE = Picture(0, 0, b"")


def describe(job: Describe) -> Program:
    """One call; the client has the picture, so only the text goes back."""
    text = yield Caption(job.network, job.picture, job.beams, job.min_length, job.max_length)
    yield Report(1, 1)
    return Outcome(NO_PICTURE, text=text)
