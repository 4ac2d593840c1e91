"""How much previews slow jobs down: the same jobs, watched and unwatched in turn.

    python -m bench.previews models/Stable-diffusion/demo.safetensors --method cheap

Prints the seconds of every round, how many previews were made, and the ratio of the medians of watched
and unwatched rounds; ends with 1 if a picture differs or the ratio exceeds the limit.
"""

import argparse
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from sdserver.bundle.bundle import Bundle
from sdserver.engine.batcher import Batcher
from sdserver.engine.engine import Engine
from sdserver.engine.messages import FromEngine, Watch
from sdserver.engine.process import row_budget
from sdserver.jobs.events import Finished, Picture, Previewed
from sdserver.jobs.job import Noise, Prompt, Sampling, Size, Txt2Img
from sdserver.jobs.model import Model
from sdserver.programs.table import program_for

LIMIT = 1.05


class Rounds:
    """Runs the jobs again and again on one engine, so that what it learns of prices stays."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._events: list[FromEngine] = []
        bundle = Bundle(args.device, approx_dir=args.approx_dir)
        self._bundle = bundle
        budget = row_budget(16)
        self._engine = Engine(bundle, program_for, Batcher(budget), self._events.append, 8)
        self._job = Txt2Img(
            "0",
            Model(str(Path(args.checkpoint).absolute())),
            Prompt("a red circle", "", 1, "Original", 20),
            Size(args.size, args.size),
            Noise(1, 1, 0.0, None, 0, "CPU"),
            Sampling(
                "Euler", "Automatic", args.steps, 7.0, 1.0, 0.0, 0.0, math.inf, 1.0, 0.0, 0.0, 0.0, False
            ),
        )

    def run(self, *, watched: bool) -> tuple[float, int, list[Picture]]:
        """Seconds, previews and pictures of one round."""
        self._events.clear()
        jobs = [
            replace(self._job, id=str(k), noise=replace(self._job.noise, seed=k, subseed=k))
            for k in range(self._args.jobs)
        ]
        clock = time.process_time if self._args.cpu_time else time.perf_counter
        began = clock()
        for job in jobs:
            self._engine.submit(job)
        if watched:
            self._engine.watch(Watch(tuple(job.id for job in jobs), self._args.every, self._args.method))
        while self._engine.busy:
            self._engine.step()
        self._bundle.settle()
        seconds = clock() - began
        pictures = {event.job: event.picture for event in self._events if isinstance(event, Finished)}
        previews = sum(isinstance(event, Previewed) for event in self._events)
        return seconds, previews, [pictures[job.id] for job in jobs]


def main() -> int:
    """Run the rounds and print what was found."""
    args = _arguments()
    with torch.inference_mode():
        rounds = Rounds(args)
        _, _, expected = rounds.run(watched=False)
        times: dict[bool, list[float]] = {False: [], True: []}
        for k in range(2 * args.rounds):
            watched = bool(k % 2)
            seconds, previews, pictures = rounds.run(watched=watched)
            times[watched].append(seconds)
            print(f"{'watched' if watched else 'unwatched':9} {seconds:.3f} s, {previews} previews")
            if pictures != expected:
                print("A picture differs.")
                return 1
    ratio = statistics.median(times[True]) / statistics.median(times[False])
    print(f"watched / unwatched: {ratio:.4f}; every picture is the same")
    return int(ratio > LIMIT)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--method", choices=["cheap", "taesd", "full"], default="cheap")
    parser.add_argument("--approx-dir", default="models/VAE-approx")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the process's CPU seconds: for busy machines"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
