"""A picture enlarged: the job, read top to bottom."""

from sdserver.calls import Report
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Enlarge
from sdserver.programs.program import Outcome, Program
from sdserver.programs.upscale import enlarged_by, upscale


def enlarge(job: Enlarge) -> Program:
    """Enlarge and fit. Every application of a network is a step; how many it takes shows only then."""
    if job.factor:
        work = enlarged_by(job.picture, job.factor, job.upscaler, job.path, job.tiles)
    else:
        work = upscale(job.picture, job.size, job.upscaler, job.path, job.tiles)
    done = 0
    try:
        call = next(work)
        while True:
            picture: Picture = yield call
            done += 1
            yield Report(done, done)
            call = work.send(picture)
    except StopIteration as end:
        return Outcome(end.value)
