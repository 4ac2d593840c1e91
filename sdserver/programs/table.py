"""Which program does which job."""

from sdserver.jobs.job import Describe, Enlarge, Img2Img, Job, Label, Restore, Txt2Img
from sdserver.programs.describe import describe
from sdserver.programs.enlarge import enlarge
from sdserver.programs.img2img import img2img
from sdserver.programs.label import label
from sdserver.programs.program import Program
from sdserver.programs.restore import restore
from sdserver.programs.txt2img import txt2img


def program_for(job: Job) -> Program:
    """The job's program, not yet begun."""
    match job:
        case Txt2Img():
            return txt2img(job)
        case Img2Img():
            return img2img(job)
        case Enlarge():
            return enlarge(job)
        case Describe():
            return describe(job)
        case Label():
            return label(job)
        case Restore():
            return restore(job)
