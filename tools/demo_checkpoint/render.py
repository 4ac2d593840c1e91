"""Pictures from a checkpoint by the server's own engine, in this process."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from PIL import Image

from sdserver.bundle.bundle import Bundle
from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.messages import FromEngine
from sdserver.jobs.events import Finished, Picture
from sdserver.jobs.job import Noise, Prompt, Sampling, Size, Txt2Img
from sdserver.jobs.model import Model
from sdserver.programs.table import program_for
from sdserver.sampling.registry import resolve

ROWS = 16


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all pictures have in common."""

    width: int
    height: int
    steps: int
    cfg: float
    sampler: str


def render(
    checkpoint: Path, captions: Sequence[str], seeds: Iterable[int], recipe: Recipe
) -> list[Image.Image]:
    """One picture per caption and seed, in order."""
    events: list[FromEngine] = []
    engine = Engine(Bundle("cpu", "fp32"), program_for, Batcher(lambda _: ROWS), events.append, ROWS // 2)
    wanted = enumerate(zip(captions, seeds, strict=True))
    jobs = [_job(f"render/{k}", checkpoint, caption, seed, recipe) for k, (caption, seed) in wanted]
    for job in jobs:
        engine.submit(job)
    with torch.inference_mode():
        while engine.busy:
            engine.step()
    done = {event.job: event.picture for event in events if isinstance(event, Finished)}
    return [_image(done[job.id]) for job in jobs]


def _job(job_id: str, checkpoint: Path, caption: str, seed: int, recipe: Recipe) -> Txt2Img:
    sampler, schedule, _ = resolve(recipe.sampler, None)
    sampling = Sampling(
        sampler.name, schedule, recipe.steps, recipe.cfg, 0.0 if sampler.kind == "timestep" else 1.0,
        0.0, 0.0, inf, 1.0, 0.0, 0.0, 0.0, False,
    )  # fmt: skip
    return Txt2Img(
        job_id,
        Model(str(checkpoint.absolute())),
        Prompt(caption, "", 1, "Original", 20),
        Size(recipe.width, recipe.height),
        Noise(seed, seed, 0.0, None, 0, "CPU"),
        sampling,
    )


def _image(picture: Picture) -> Image.Image:
    return Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
