"""The demo checkpoint under the server's own engine, in this process, and jobs for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import COLOURS, Scene, draw, shape_figures

from sdserver.bundle.bundle import Bundle
from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.messages import FromEngine
from sdserver.images.img2img import Preparation, prepare
from sdserver.images.pictures import to_image
from sdserver.jobs.events import Finished
from sdserver.jobs.job import Hires, Img2Img, Job, Noise, Prompt, Sampling, Size, Start, Txt2Img
from sdserver.jobs.model import Model
from sdserver.programs.table import program_for

DEMO = Path(__file__).parents[2] / "models" / "Stable-diffusion" / "demo.safetensors"
SIDE = 128
STEPS = 15
ROWS = 16
MODEL = Model(str(DEMO))


@dataclass(frozen=True)
class Studio:
    """Runs jobs; the checkpoint stays loaded."""

    bundle: Bundle

    def pictures(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """What the jobs make, in order."""
        events: list[FromEngine] = []
        engine = Engine(self.bundle, program_for, Batcher(lambda _: ROWS), events.append, ROWS // 2)
        named = [replace(job, id=f"demo/{k}") for k, job in enumerate(jobs)]
        for job in named:
            engine.submit(job)
        with torch.inference_mode():
            while engine.busy:
                engine.step()
        done = {event.job: event.picture for event in events if isinstance(event, Finished)}
        return [to_image(done[job.id]) for job in named]


@pytest.fixture(scope="package")
def studio() -> Studio:
    return Studio(Bundle("cpu", "fp32"))


def prompt(text: str, negative: str = "") -> Prompt:
    return Prompt(text, negative, 1, "Original", 20)


def sampling(steps: int = STEPS) -> Sampling:
    return Sampling("DPM++ 2M", "karras", steps, 5.0, 1.0, 0.0, 0.0, inf, 1.0, 0.0, 0.0, 0.0, False)


def noise(seed: int) -> Noise:
    return Noise(seed, seed, 0.0, None, 0, "CPU")


def txt2img(text: str, seed: int, negative: str = "") -> Txt2Img:
    return Txt2Img("", MODEL, prompt(text, negative), Size(SIDE, SIDE), noise(seed), sampling())


def hires(job: Txt2Img, factor: float, upscaler: str, strength: float) -> Txt2Img:
    """The job with a second pass of the same prompt."""
    size = Size(int(job.size.width * factor), int(job.size.height * factor))
    second = Hires(
        size=size,
        upscale_to=size,
        upscaler=upscaler,
        upscaler_path="",
        model=job.model,
        prompt=job.prompt,
        sampling=sampling(10),
        start=Start(strength, exact_steps=True),
    )
    return replace(job, hires=second)


def img2img(picture: Image.Image, text: str, seed: int, strength: float) -> Img2Img:
    prepared = prepare(picture, Preparation(SIDE, SIDE))
    start = Start(strength, exact_steps=False)
    size = Size(SIDE, SIDE)
    return Img2Img("", MODEL, prompt(text), size, noise(seed), sampling(), start, prepared.init)


def scene(shape: str, colour: str, background: str) -> Image.Image:
    """A drawing of one shape in the middle."""
    ground = COLOURS[background]
    figures = shape_figures(shape, COLOURS[colour], ground, (0.5, 0.5), 0.27)
    return draw(Scene("", ground, figures), SIDE, SIDE, 3)


def distance(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures' values, in grey levels."""
    return float(np.abs(np.asarray(one).astype(float) - np.asarray(other).astype(float)).mean())
