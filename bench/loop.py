"""Where the engine's thread spends its time under load, beside the same work as one static batch.

    python -m bench.loop tests/goldens/checkpoints/tiny-sd15.safetensors --clients 16 --threads 1

No server: the engine's loop runs here, and a job that ends is replaced by another `--lag` batches later, as
clients of a closed loop would. Rounds take turns with static batches of as many pictures (`bench.offline`).
All is CPU time of this one thread, so what else the machine does counts little. Prints JSON: the ratio of the
medians per picture, what of the engine's time was inside of the networks, by kind of call, and what outside.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.mix import Asked, identical, mixed, requests
from bench.offline import Offline
from sdserver.bundle.bundle import Bundle
from sdserver.calls import DeviceCall
from sdserver.engine.config import EngineConfig
from sdserver.engine.engine import Engine
from sdserver.engine.messages import FromEngine
from sdserver.engine.process import batching
from sdserver.jobs.events import Failed, Finished
from sdserver.jobs.job import Noise, Prompt, Sampling, Size, Txt2Img
from sdserver.jobs.keeping import Keeping
from sdserver.jobs.model import Model
from sdserver.programs.table import program_for


class Clocked:
    """A bundle whose calls' CPU time is added up by kind.

    Attributes:
        seconds: by kind of call.
        batches: by the number of rows, of the UNet.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.batches: Counter[int] = Counter()

    @property
    def name(self) -> str:
        """The bundle's."""
        return self._bundle.name

    @property
    def precision(self) -> str:
        """The bundle's."""
        return self._bundle.precision

    def run(self, calls: Sequence[DeviceCall]) -> list[Any]:
        """As the bundle does."""
        began = time.thread_time()
        results = self._bundle.run(calls)
        kind = str(calls[0].batch_key()[0])
        self.seconds[kind] += time.thread_time() - began
        if kind == "predict":
            self.batches[len(calls)] += 1
        return list(results)

    def settle(self) -> None:
        """As the bundle does."""
        self._bundle.settle()

    def unload(self) -> None:
        """As the bundle does."""
        self._bundle.unload()

    def keep(self, keeping: Keeping) -> None:
        """As the bundle does."""
        self._bundle.keep(keeping)


class Loop:
    """An engine that so many clients keep busy."""

    def __init__(self, args: argparse.Namespace) -> None:
        config = EngineConfig("cpu", "fp32", "sdpa", 1, 64, 64, False, False, 1, "warning")
        self.device = Clocked(Bundle("cpu", "fp32"))
        device, batcher = batching(self.device, config)
        self._events: list[FromEngine] = []
        emit = self._events.append
        self._engine = Engine(device, program_for, batcher, emit, config.max_running, timer=time.thread_time)
        self._model = Model(str(args.checkpoint.resolve()))
        self._clients, self._lag = args.clients, args.lag
        law = (mixed if args.mixed else identical)(args.steps, args.size, args.size)
        self._jobs = self._made(requests(law, 1))
        for job in itertools.islice(self._jobs, self._clients):
            self._engine.submit(job)

    def run(self, pictures: int) -> float:
        """CPU seconds until so many more pictures are there."""
        began, made = time.thread_time(), 0
        due: deque[int] = deque()
        for step in itertools.count():
            self._engine.step()
            for event in self._events:
                assert not isinstance(event, Failed), event
                if isinstance(event, Finished):
                    made += 1
                    due.append(step + self._lag)
            self._events.clear()
            while due and (due[0] <= step or not self._engine.busy):
                due.popleft()
                self._engine.submit(next(self._jobs))
            if made >= pictures:
                break
        for _ in due:
            self._engine.submit(next(self._jobs))
        return (time.thread_time() - began) / made * pictures

    def _made(self, asked: Iterator[Asked]) -> Iterator[Txt2Img]:
        for number, one in enumerate(asked):
            yield Txt2Img(
                str(number),
                self._model,
                Prompt(one.prompt, one.negative_prompt, 1, "Original", one.steps),
                Size(one.width, one.height),
                Noise(one.seed, one.seed, 0.0, None, 0, "CPU"),
                _sampling(one),
            )


def _sampling(one: Asked) -> Sampling:
    return Sampling(
        one.sampler_name,
        "Automatic",
        one.steps,
        one.cfg_scale,
        1.0,
        0.0,
        0.0,
        math.inf,
        1.0,
        0.0,
        0.0,
        0.0,
        False,
    )


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The rounds of both sides, in turn, and what the engine's were spent on."""
    offline, loop = Offline(args), Loop(args)
    pictures = args.clients
    offline.run(pictures)
    loop.run(args.warm)
    loop.device.seconds.clear()
    loop.device.batches.clear()
    static: list[float] = []
    mine: list[float] = []
    for _ in range(args.rounds):
        began = time.thread_time()
        offline.run(pictures)
        static.append((time.thread_time() - began) / pictures)
        mine.append(loop.run(args.pictures) / args.pictures)
    inside, whole = loop.device.seconds, sum(mine) * args.pictures
    shares = {kind: round(seconds / whole, 4) for kind, seconds in inside.items()}
    shares["outside"] = round(1 - sum(inside.values()) / whole, 4)
    return {
        "static_ms": [round(1000 * one, 2) for one in static],
        "engine_ms": [round(1000 * one, 2) for one in mine],
        "static_by_engine": round(statistics.median(static) / statistics.median(mine), 3),
        "shares": shares,
        "rows": dict(sorted(loop.device.batches.items())),
    }


def main() -> int:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--mixed", action="store_true", help="requests that differ in all but their size")
    parser.add_argument("--lag", type=int, default=1, help="batches until a client asks again")
    parser.add_argument("--warm", type=int, default=96, help="pictures before the first round")
    parser.add_argument("--pictures", type=int, default=64, help="of a round")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    args.device, args.precision, args.cfg_scale, args.decode_rows = "cpu", "fp32", 7.0, 8
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        print(json.dumps(measured(args), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
