"""A picture from text: the job, read top to bottom."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from sdserver.calls import Decode, Encode, UseModel
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Size, Txt2Img
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import condition
from sdserver.programs.denoise import Network, denoise
from sdserver.programs.program import Outcome, Program
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import make_plan

CELL = 8


def txt2img(job: Txt2Img) -> Program:
    """Encode the prompt, denoise from the seed's noise, decode."""
    model: ModelFacts = yield UseModel(job.model)
    plan = make_plan(job.sampling, model)
    steps = job.sampling.steps * (2 if plan.sampler.second_order else 1)
    conditionings = yield from condition(model.model, job.prompt, steps, job.size)
    shape = (model.latent_channels, job.size.height // CELL, job.size.width // CELL)
    concat = (yield from full_mask(model, job.size)) if model.inpainting else None
    noise = ImageNoise(job.noise, shape, torch.device(model.device))
    sampler = plan.start(noise.first() * plan.initial_scale, noise)
    denoised = yield from denoise(
        sampler, Network(model, plan, conditionings, concat), job.sampling.cfg_scale
    )
    picture: Picture = yield Decode(model.model, denoised.latent)
    return Outcome(picture, denoised.interrupted)


def full_mask(model: ModelFacts, size: Size) -> Generator[Encode, Any, Tensor]:
    """What an inpainting checkpoint takes beside the latent when all is to be painted, (5, h, w).

    A mask of ones, and the latent of a picture of which nothing is given: grey, as AUTOMATIC1111 has it.
    """
    height, width = size.height // CELL * CELL, size.width // CELL * CELL
    latent: Tensor = yield Encode(model.model, torch.zeros(3, height, width, device=model.device))
    return torch.cat([torch.ones_like(latent[:1]), latent])
