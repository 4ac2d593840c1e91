"""A picture described by labels: the job, read top to bottom."""

import re
from typing import Final

from sdserver.calls import Report, Score, Scores
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Label, LabelRules
from sdserver.programs.program import Outcome, Program

RATING: Final = "rating:"
"""What the names of labels begin with that are never told, as in A1111."""

_SPECIAL = re.compile(r"([\\()])")


def label(job: Label) -> Program:
    """One call; the client has the picture, so only the text goes back."""
    scores: Scores = yield Score(job.network, job.picture)
    yield Report(1, 1)
    return Outcome(Picture(0, 0, b""), text=written(scores, job.rules))


def written(scores: Scores, rules: LabelRules) -> str:
    """The labels that the rules let through, with commas between, as A1111 writes them."""
    found = dict(scores)
    told = [
        (name, score)
        for name, score in found.items()
        if score >= rules.threshold and not name.startswith(RATING) and name not in rules.left_out
    ]
    told.sort(key=(lambda one: one[0]) if rules.is_sorted else (lambda one: -one[1]))
    return ", ".join(_written(name, score, rules) for name, score in told)


def _written(name: str, score: float, rules: LabelRules) -> str:
    text = name.replace("_", " ") if rules.uses_spaces else name
    text = _SPECIAL.sub(r"\\\1", text) if rules.escapes else text
    return f"({text}:{score:.3f})" if rules.shows_scores else text
