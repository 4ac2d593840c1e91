"""A device without a model: exact, cheap, and the same whatever shares a batch."""

import math
from dataclasses import replace

import numpy as np
import torch

from sdserver.calls import Conditioning, Decode, EncodeText, Predict, UseModel
from sdserver.errors import OutOfMemory, UnreadableCheckpoint
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Noise, Prompt, Sampling, Size, Txt2Img
from sdserver.jobs.model import Model, ModelFacts

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHAS = tuple(float(alpha) for alpha in np.cumprod(1 - BETAS))
CHECKPOINT = "/models/toy.safetensors"


class ToyDevice:
    """Answers every call in fp64; texts that say `fault` fail, and so do checkpoints that say `bad`."""

    name = "toy"
    precision = "fp64"

    def __init__(self):
        self.batches = []
        self.loads = []

    def run(self, calls):
        assert len({call.batch_key() for call in calls}) == 1
        self.batches.append((type(calls[0]).__name__, len(calls)))
        return [self.answer(call) for call in calls]

    def answer(self, call):
        match call:
            case UseModel(model):
                checkpoint = model.checkpoint
                self.loads.append(checkpoint)
                if "bad" in checkpoint:
                    return UnreadableCheckpoint("The file is cut short.")
                return ModelFacts(model, "sd1", "epsilon", 4, ALPHAS, False)
            case EncodeText(text=text):
                if "fault" in text:
                    return OutOfMemory("No memory for this text.")
                level = sum(map(ord, text)) % 97 / 97
                return Conditioning(torch.full((77, 2), level, dtype=torch.float64))
            case Predict(x=x, timestep=timestep, conditioning=conditioning):
                wave = math.sin(timestep / 100) + conditioning.context.mean().item()
                return torch.tanh(x.double() * (0.5 + wave / 4) + wave).float()
            case Decode(latent=latent):
                flat = (
                    (latent[:3] * 64).remainder(256).floor().to(torch.uint8)
                )  # wraps, so small differences show
                height, width = flat.shape[1:]
                return Picture(width, height, flat.permute(1, 2, 0).contiguous().numpy().tobytes())


JOB = Txt2Img(
    "r/0",
    Model(CHECKPOINT),
    Prompt("a toy", "", 1, "Original", 20),
    Size(64, 64),
    Noise(1, 1, 0.0, None, 0, "CPU"),
    Sampling("Euler", "Automatic", 4, 7.0, 1.0, 0.0, 0.0, math.inf, 1.0, 0.0, 0.0, 0.0, False),
)


def toy_job(
    id,
    *,
    text="a toy",
    seed=1,
    steps=4,
    sampler="Euler",
    schedule="Automatic",
    cfg=7.0,
    size=64,
    checkpoint=CHECKPOINT,
):
    return replace(
        JOB,
        id=id,
        model=Model(checkpoint),
        prompt=replace(JOB.prompt, positive=text),
        size=Size(size, size),
        noise=replace(JOB.noise, seed=seed, subseed=seed),
        sampling=replace(JOB.sampling, sampler=sampler, schedule=schedule, steps=steps, cfg_scale=cfg),
    )
