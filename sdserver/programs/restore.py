"""A picture's faces restored: the job, read top to bottom."""

from sdserver.calls import Report
from sdserver.images.enlarge import blended
from sdserver.images.pictures import to_image, to_picture
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Restore
from sdserver.programs.faces import restored
from sdserver.programs.program import Outcome, Program


def restore(job: Restore) -> Program:
    """One restorer after the other, each laid over what there was."""
    picture = job.picture
    for number, step in enumerate(job.steps, 1):
        result: Picture = yield from restored(picture, step.restorer)
        if step.share < 1:
            result = to_picture(blended(to_image(picture), to_image(result), step.share))
        picture = result
        yield Report(number, len(job.steps))
    return Outcome(picture)
