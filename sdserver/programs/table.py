"""Which program does which job."""

from sdserver.jobs.job import Job
from sdserver.programs.program import Program
from sdserver.programs.txt2img import txt2img


def program_for(job: Job) -> Program:
    """The job's program, not yet begun."""
    return txt2img(job)
