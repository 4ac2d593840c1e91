"""AUTOMATIC1111's recorded pictures with LoRAs and hypernetworks, all in one run that mixes them."""

from math import inf
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdserver.bundle.bundle import Bundle
from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.messages import FromEngine
from sdserver.jobs.events import Finished
from sdserver.jobs.job import Noise, Prompt, Sampling, Size, Txt2Img
from sdserver.jobs.model import Adapter, Model
from sdserver.programs.table import program_for

HERE = Path(__file__).parents[1] / "goldens"
NETWORKS = HERE / "checkpoints"
SD15 = HERE / "checkpoints" / "tiny-sd15.safetensors"


def lora(name: str, weight: float) -> Adapter:
    return Adapter("lora", str(NETWORKS / "lora" / f"{name}.safetensors"), weight, weight)


def hypernetwork(weight: float) -> Adapter:
    return Adapter("hypernetwork", str(NETWORKS / "hypernetworks" / "apihn.pt"), weight, weight)


# The prompt is what AUTOMATIC1111 leaves once it has taken the tags out.
CASES: list[tuple[str, str, tuple[Adapter, ...]]] = [
    ("lora", "a cat ", (lora("tinylora", 1.0),)),
    ("after_lora_plain", "a cat", ()),
    ("lora_dup", "a cat  ", (lora("tinylora", 0.3), lora("tinylora", 0.4))),
    ("lora_both", " a cat ", (lora("tinylora", 0.6), lora("tinylocon", 0.4))),
    ("locon", "a cat ", (lora("tinylocon", 1.0),)),
    ("hn05", "a cat ", (hypernetwork(0.5),)),
]


def job(name: str, text: str, adapters: tuple[Adapter, ...]) -> Txt2Img:
    sampling = Sampling("Euler", "Automatic", 6, 7.0, 1.0, 0.0, 0.0, inf, 1.0, 0.0, 0.0, 0.0, False)
    return Txt2Img(
        name,
        Model(str(SD15), adapters=adapters),
        Prompt(text, "dog", 1, "Original", 20),
        Size(64, 64),
        Noise(1234, 1234, 0.0, None, 0, "CPU"),
        sampling,
    )


def test_pictures_are_those_that_automatic1111_made():
    events: list[FromEngine] = []
    engine = Engine(Bundle("cpu", "fp32"), program_for, Batcher(lambda _: 8), events.append, 8)
    for case in CASES:
        engine.submit(job(*case))
    with torch.inference_mode():
        while engine.busy:
            engine.step()
    done = {event.job: event.picture for event in events if isinstance(event, Finished)}
    assert len(done) == len(CASES), events
    for name, _, _ in CASES:
        got = np.frombuffer(done[name].pixels, np.uint8).reshape(64, 64, 3).astype(int)
        with Image.open(HERE / "bundle" / "adapters" / f"{name}.png") as recorded:
            difference = np.abs(got - np.asarray(recorded.convert("RGB")).astype(int))
        assert difference.max() <= 1, name
        assert difference.mean() < 0.01, name
