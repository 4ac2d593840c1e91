"""A picture described in words: the job, read top to bottom."""

from collections.abc import Generator
from typing import Any, Final

import torch

from sdserver.calls import Call, Caption, PictureFeature, Report, TextFeatures
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Describe, Ranking, WordList
from sdserver.programs.program import Outcome, Program

NO_PICTURE = Picture(0, 0, b"")

TEXTS: Final = 64
"""Of a list that are looked at in one call, so that none holds up the other jobs' steps for long."""

_SHARPNESS = 100.0
"""What CLIP's cosines are scaled by before they become shares, as in A1111."""


def describe(job: Describe) -> Program:
    """The caption, then what ranking adds; the client has the picture, so only the text goes back."""
    steps = 1 + (_calls(job.ranking) if job.ranking else 0)
    text = yield Caption(job.network, job.picture, job.beams, job.min_length, job.max_length, job.vocabulary)
    yield Report(1, steps)
    if job.ranking:
        text += yield from _ranked(job.picture, job.ranking, steps)
    return Outcome(NO_PICTURE, text=text)


def _calls(ranking: Ranking) -> int:
    return 1 + sum(-(-len(words.texts) // TEXTS) for words in ranking.lists)


def _ranked(picture: Picture, ranking: Ranking, steps: int) -> Generator[Call, Any, str]:
    """What is added to the caption: of each list the texts that fit best, the best first."""
    feature = yield PictureFeature(ranking.network, picture)
    step = 2
    yield Report(step, steps)
    added = ""
    for words in ranking.lists:
        cosines: list[torch.Tensor] = []
        for first in range(0, len(words.texts), TEXTS):
            features = yield TextFeatures(ranking.network, words.texts[first : first + TEXTS])
            cosines.append(features @ feature)
            step += 1
            yield Report(step, steps)
        for text, share in _best(words, torch.cat(cosines)):
            added += f", ({text}:{share:.3f})" if ranking.shows_scores else f", {text}"
    return added


def _best(words: WordList, cosines: torch.Tensor) -> list[tuple[str, float]]:
    """The texts that fit best with their shares, which are 1 for the whole list together."""
    shares, places = (_SHARPNESS * cosines).softmax(dim=0).topk(min(words.most, len(words.texts)))
    return [
        (words.texts[place], share) for share, place in zip(shares.tolist(), places.tolist(), strict=True)
    ]
