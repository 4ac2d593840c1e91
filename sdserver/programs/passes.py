"""One pass of a job: from noise, or a picture's latent and noise, to a denoised latent."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdserver.calls import Call, DeviceCall
from sdserver.jobs.job import Guidance, Noise, Prompt, Refiner, Sampling, Size, Start
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Texts, Wording, condition
from sdserver.programs.denoise import Denoised, Denoiser, denoise
from sdserver.programs.findings import Findings
from sdserver.programs.guide import Guide
from sdserver.programs.latent_masks import LatentMask
from sdserver.programs.network import Network
from sdserver.programs.refiner import Takeover
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import make_plan
from sdserver.sampling.registry import sampler_named

CELL = 8


@dataclass(frozen=True, slots=True)
class Pass:
    """What a job says of one of its passes.

    Attributes:
        start: from a picture's latent; None from noise alone.
        refiner: that takes over in this pass, None for none.
        texts, findings: the job's.
        before, after: evaluations of the denoiser in earlier and in later passes.
        encoder: that the texts are encoded with, None for the model that the pass runs on.
    """

    sampling: Sampling
    start: Start | None
    wording: Wording
    guidance: Guidance
    refiner: Refiner | None
    noise: Noise
    texts: Texts
    findings: Findings
    before: int = 0
    after: int = 0
    encoder: ModelFacts | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a pass is given beside noise.

    Attributes:
        latent: (channels, h, w): the picture to start from, None for none.
        mask: what is kept of it, None for nothing.
        concat: what an inpainting checkpoint takes beside the latent, (5, h, w); None for others.
        noise: (channels, h, w): in the place of the seed's first noise, None for that.
    """

    latent: Tensor | None = None
    mask: LatentMask | None = None
    concat: Tensor | None = None
    noise: Tensor | None = None


def run_pass(
    one: Pass, model: ModelFacts, shape: tuple[int, int, int], given: Given
) -> Generator[Call | list[DeviceCall], Any, Denoised]:
    """Encode the pass's texts and denoise a latent of `shape`."""
    plan = make_plan(one.sampling, model, one.start)
    conditionings = yield from condition(one.encoder or model, one.wording, one.texts)
    if one.wording.hires_steps is None:
        one.findings.embeddings = conditionings.embeddings()
    network = Network(model, plan, conditionings, given.concat)
    guide = Guide(one.sampling.cfg_scale, one.guidance, one.findings)
    takeover = None
    if one.refiner is not None:
        takeover = Takeover(one.refiner, one.sampling, one.start, one.wording, one.texts, one.findings)
    total = one.before + plan.evaluations + one.after
    denoiser = Denoiser(network, guide, takeover, given.mask, one.before, total)
    noise = ImageNoise(one.noise, shape, torch.device(model.device))
    # Where another noise stands for the seed's, that is left for the sampler's steps, as in A1111.
    first = noise.first() if given.noise is None else given.noise
    sampler = plan.start(plan.initial(first, given.latent), noise)
    return (yield from denoise(sampler, denoiser))


def counted(sampling: Sampling, steps: int) -> int:
    """Steps as prompt editing counts them: twice as many where the sampler evaluates twice a step."""
    return steps * (2 if sampler_named(sampling.sampler).second_order else 1)


def latent_shape(model: ModelFacts, size: Size) -> tuple[int, int, int]:
    """Of the latent of a picture of that size."""
    return (model.latent_channels, size.height // CELL, size.width // CELL)


def wording(prompt: Prompt, sampling: Sampling, size: Size, guidance: Guidance) -> Wording:
    """Of a job's first or only pass."""
    return Wording(prompt, counted(sampling, sampling.steps), None, size, guidance.padding)
