"""A picture from text: the job, read top to bottom."""

import torch

from sdserver.calls import Decode, UseModel
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Txt2Img
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import condition
from sdserver.programs.denoise import denoise
from sdserver.programs.program import Outcome, Program
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.plan import make_plan

CELL = 8


def txt2img(job: Txt2Img) -> Program:
    """Encode the prompt, denoise from the seed's noise, decode."""
    model: ModelFacts = yield UseModel(job.checkpoint)
    plan = make_plan(job.sampling, model)
    steps = job.sampling.steps * (2 if plan.sampler.second_order else 1)
    conditionings = yield from condition(model.key, job.prompt, steps, job.size)
    shape = (model.latent_channels, job.size.height // CELL, job.size.width // CELL)
    noise = ImageNoise(job.noise, shape, torch.device(model.device))
    sampler = plan.start(noise.first() * plan.initial_scale, noise)
    denoised = yield from denoise(sampler, plan, conditionings, job.sampling.cfg_scale, model)
    picture: Picture = yield Decode(model.key, denoised.latent)
    return Outcome(picture, denoised.interrupted)
