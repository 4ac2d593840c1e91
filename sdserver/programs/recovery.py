"""Noise that a picture could have come from: AUTOMATIC1111's "img2img alternative test".

The picture's latent is walked back by Euler steps, from no noise to all of it. Sampling by Euler with the
same prompts then finds about the same picture, and with others one that is like it.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdserver.calls import Call, Conditioning, DeviceCall, EncodeText, Predict, Report
from sdserver.jobs.job import Img2Img, Recovery
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Texts
from sdserver.sampling.levels import model_levels
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import make_plan
from sdserver.sampling.prediction import c_in, c_out
from sdserver.sampling.sigmas import Grid, Sigmas, SigmaTable, build, model_table


class Back(NamedTuple):
    """One step back.

    Attributes:
        level: sigma that the latent is taken to have.
        asked: sigma whose timestep the network is told.
        divisor: sigma that makes a direction of the noise found.
        distance: to the next sigma.
    """

    level: float
    asked: float
    divisor: float
    distance: float


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The way back of one picture.

    Attributes:
        concat: what an inpainting checkpoint takes beside the latent, (5, h, w); None for others.
        total: evaluations that the whole job will take.
    """

    job: Img2Img
    recovery: Recovery
    model: ModelFacts
    concat: Tensor | None
    total: int


def recovered_noise(
    job: Img2Img, recovery: Recovery, model: ModelFacts, latent: Tensor, texts: Texts, concat: Tensor | None
) -> Generator[Call | list[DeviceCall], Any, Tensor]:
    """What stands for the seed's noise where the job begins, (channels, h, w).

    Args:
        job: what is asked.
        recovery: the job's.
        model: what it runs on.
        latent: the picture's.
        texts: the job's.
        concat: see `Walk`.
    """
    sampling = job.sampling
    table = model_table(model_levels(model.alphas, sampling.noise_schedule, sampling.downcast_alphas))
    ascending = _ascending(table, recovery.steps, is_sdxl=model.family == "sdxl")
    total = recovery.steps + make_plan(sampling, model, job.start).evaluations
    walk = Walk(job, recovery, model, concat, total)
    positive, negative = yield from texts.encode(_texts(walk), model.family)
    end = yield from _walked_back(walk, latent, ascending, table, (positive, negative))
    found = end / ascending[-1] if recovery.sigma_adjustment else end / end.std()
    share = recovery.randomness
    if share > 0:
        shape = (latent.shape[0], latent.shape[1], latent.shape[2])
        drawn = ImageNoise(job.noise, shape, torch.device(model.device)).first()
        found = ((1 - share) * found + share * drawn) / math.sqrt(share**2 + (1 - share) ** 2)
    # The run adds the latent to it, which is in the noise already.
    return found - latent / table.sigmas[-1]


def steps_back(ascending: Sigmas, *, is_adjusted: bool) -> list[Back]:
    """The steps from sigma 0, the first, to the last one.

    Args:
        ascending: the sigmas.
        is_adjusted: the network is asked at the level where a step begins, not where it ends; the first one
            then goes nowhere.
    """
    found: list[Back] = []
    for low, high in pairwise(ascending):
        if not is_adjusted:
            found.append(Back(high, high, high, high - low))
        elif low == 0:
            found.append(Back(low, high, 2 * high, high - low))
        else:
            found.append(Back(low, low, low, high - low))
    return found


def _ascending(table: SigmaTable, steps: int, *, is_sdxl: bool) -> Sigmas:
    grid = Grid(steps, table, table.sigmas[0], table.sigmas[-1], 7.0, is_sdxl)
    return build("automatic", grid)[::-1]


def _texts(walk: Walk) -> list[EncodeText]:
    """Both are taken as they are, without prompt editing, AND or networks."""
    job = walk.job
    return [
        EncodeText(walk.model.model, text, job.prompt, job.size, is_negative=is_negative)
        for text, is_negative in ((walk.recovery.positive, False), (walk.recovery.negative, True))
    ]


def _walked_back(
    walk: Walk,
    x: Tensor,
    ascending: Sigmas,
    table: SigmaTable,
    conditionings: tuple[Conditioning, Conditioning],
) -> Generator[Call | list[DeviceCall], Any, Tensor]:
    scale = walk.recovery.cfg_scale
    wanted = conditionings[: 1 if scale == 1.0 else 2]
    for done, step in enumerate(steps_back(ascending, is_adjusted=walk.recovery.sigma_adjustment)):
        shown = x * c_in(step.level)
        if walk.concat is not None:
            shown = torch.cat([shown, walk.concat])
        timestep = table.timestep(step.asked)
        outputs: list[Tensor] = yield [
            Predict(walk.model.model, shown, timestep, one, done) for one in wanted
        ]
        output = outputs[0] if scale == 1.0 else outputs[1] + (outputs[0] - outputs[1]) * scale
        # A1111 forgets a v prediction's share of x.
        found = output * -c_out(walk.model.prediction, step.level)
        x = x + found * (step.distance / step.divisor)
        yield Report(done + 1, walk.total, walk.model.model, x)
    return x
