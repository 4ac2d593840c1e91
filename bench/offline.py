"""The limit of batching: our own networks without a server, all pictures of a batch in step.

    python -m bench.offline CHECKPOINT --size 64 --batch 1 2 4 8 16 32

One prompt is encoded once. Every step is one call of the network for all rows of the batch, two a picture,
and Euler's update on the whole batch; then the pictures are decoded. No queue, no PNG. Prints JSON: for each
batch size the pictures a second of each round, and those a second of this process's CPU time.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.calls import Conditioning, Decode, EncodeText, Predict, UseModel
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Prompt, Size
from sdserver.jobs.model import Model, ModelFacts

Rates = dict[int, list[float]]

GAIN = 1.02
"""A larger batch is tried as long as one of the last two gained so much."""


class Offline:
    """A loaded checkpoint and one encoded prompt."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._bundle = Bundle(args.device, args.precision)
        self._model = Model(str(args.checkpoint.resolve()))
        (facts,) = self._bundle.run([UseModel(self._model)])
        assert isinstance(facts, ModelFacts), facts
        self._facts = facts
        self._size = args.size
        self._steps, self._cfg_scale, self._decoded = args.steps, args.cfg_scale, args.decode_rows
        sigmas = ((1 - torch.tensor(facts.alphas)) / torch.tensor(facts.alphas)).sqrt()
        times = torch.linspace(len(facts.alphas) - 1, 0, self._steps)
        self._times: list[float] = times.tolist()
        self._sigmas: list[float] = [*sigmas[times.round().long()].tolist(), 0.0]

    def run(self, pictures: int) -> float:
        """Seconds for a batch, from its text to its pixels."""
        began = time.perf_counter()
        texts = self._texts()
        latents = self._denoised(pictures, texts)
        made: list[Any] = []
        for some in latents.split(self._decoded):
            made += self._bundle.run([Decode(self._model, latent) for latent in some])
        self._bundle.settle()
        seconds = time.perf_counter() - began
        assert len(made) == pictures
        assert all(isinstance(one, Picture) for one in made), made
        return seconds

    def _texts(self) -> tuple[Conditioning, ...]:
        """The positive and, where it is evaluated, the negative one."""
        prompt = Prompt("a red circle", "", 1, "Original", 20)
        size = Size(self._size, self._size)
        kinds = [("a red circle", False)] if self._cfg_scale == 1 else [("a red circle", False), ("", True)]
        calls = [EncodeText(self._model, text, prompt, size, negative) for text, negative in kinds]
        found = [one for one in self._bundle.run(calls) if isinstance(one, Conditioning)]
        assert len(found) == len(kinds)
        return tuple(found)

    def _denoised(self, pictures: int, texts: Sequence[Conditioning]) -> Tensor:
        side, device = self._size // 8, self._facts.device
        generator = torch.Generator("cpu").manual_seed(1)
        shape = (pictures, self._facts.latent_channels, side, side)
        x = torch.empty(shape).normal_(generator=generator).to(device) * self._sigmas[0]
        for step, timestep in enumerate(self._times):
            sigma, following = self._sigmas[step], self._sigmas[step + 1]
            scaled = x / (sigma**2 + 1) ** 0.5
            noise = self._predicted(scaled, timestep, texts)
            x = x + noise * (following - sigma)
        return x

    def _predicted(self, x: Tensor, timestep: float, texts: Sequence[Conditioning]) -> Tensor:
        rows = [Predict(self._model, one, timestep, text) for text in texts for one in x]
        results = [row for row in self._bundle.run(rows) if isinstance(row, Tensor)]
        assert len(results) == len(rows)
        whole = torch.stack(results)
        if len(texts) == 1:
            return whole
        positive, negative = whole.chunk(2)
        return negative + self._cfg_scale * (positive - negative)


def measured(offline: Offline, batches: Sequence[int], rounds: int) -> tuple[Rates, Rates]:
    """Pictures a second and a CPU second, by batch size and round; ends where larger ones gain nothing."""
    found: Rates = {}
    by_cpu: Rates = {}
    best, without_gain = 0.0, 0
    for batch in batches:
        offline.run(batch)
        found[batch], by_cpu[batch] = [], []
        for _ in range(rounds):
            began = time.process_time()
            found[batch].append(batch / offline.run(batch))
            by_cpu[batch].append(batch / (time.process_time() - began))
        rate = max(found[batch])
        without_gain = 0 if rate > best * GAIN else without_gain + 1
        best = max(best, rate)
        if without_gain == 2:
            break
    return found, by_cpu


def main() -> int:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 leaves it to torch")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg-scale", type=float, default=7.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="pictures")
    parser.add_argument("--decode-rows", type=int, default=8, help="pictures decoded at once")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with torch.inference_mode():
        found, by_cpu = measured(Offline(args), args.batch, args.rounds)
    rates = {"pictures_per_second": found, "pictures_per_cpu_second": by_cpu}
    print(json.dumps(rates | {"threads": torch.get_num_threads()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
