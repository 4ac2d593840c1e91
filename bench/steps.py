"""One step of a full-size UNet: ours, and the stock diffusers network as it comes, in turn.

    python -m bench.steps sd15 --size 512 --rounds 3

Random weights; a step is one of a picture under guidance: one latent at one time, two texts, and what the
network says of both combined. The stock network runs eagerly in fp32 on tensors in NCHW order, as the stock
pipeline calls it. Ours is asked through the same door as the engine's, in fp32 and, where the processor has
instructions for it, in bf16. Each side has a process of its own, with its own memory, and waits while others
run. Prints JSON: the seconds of each round by the clock and by the processor, and the ratios of the medians
to the stock network's.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from bench.machine import has
from bench.random_checkpoint import KINDS, write
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.memory import hold_freed
from sdserver.calls import Conditioning, Predict
from sdserver.jobs.model import Model

TOKENS: Final = 77
TIMESTEP: Final = 500.0
GUIDANCE: Final = 7.5
WAIT_SECONDS: Final = 3600.0
STOCK: Final = "stock fp32"

Step = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class Setting:
    """What both sides are given.

    Attributes:
        folder: of the checkpoint.
        width: of the texts.
        size: pixels a side.
        threads: of the processor; 0 leaves it to torch.
    """

    folder: Path
    width: int
    size: int
    threads: int

    def latent(self) -> Tensor:
        """(4, h, w)."""
        side = self.size // 8
        return torch.empty(4, side, side).normal_(generator=torch.Generator().manual_seed(1))

    def texts(self) -> Tensor:
        """(2, tokens, width): the negative prompt's and the prompt's."""
        return torch.empty(2, TOKENS, self.width).normal_(generator=torch.Generator().manual_seed(2))


def stock(setting: Setting) -> Step:
    """The stock pipeline's step."""
    unet: Any = UNet2DConditionModel.from_pretrained(
        setting.folder / "unet", torch_dtype=torch.float32, local_files_only=True
    )
    unet.eval()
    latents, texts = setting.latent()[None], setting.texts()

    def step() -> Tensor:
        (found,) = unet(torch.cat([latents] * 2), TIMESTEP, encoder_hidden_states=texts, return_dict=False)
        return guided(*found)

    return step


def ours(setting: Setting, precision: Any) -> Step:
    """Our bundle's step, in an engine's surroundings."""
    hold_freed()
    bundle, model = Bundle("cpu", precision), Model(str(setting.folder))
    latent, texts = setting.latent(), setting.texts()
    rows = [Predict(model, latent, TIMESTEP, Conditioning(text)) for text in texts]

    def step() -> Tensor:
        found = [result for result in bundle.run(rows) if isinstance(result, Tensor)]
        return guided(*found)

    return step


def guided(negative: Tensor, positive: Tensor) -> Tensor:
    """What the network says of both texts, combined."""
    return negative + GUIDANCE * (positive - negative)


SIDES: Final[Mapping[str, Callable[[Setting], Step]]] = {
    STOCK: stock,
    "ours fp32": lambda setting: ours(setting, "fp32"),
    "ours bf16": lambda setting: ours(setting, "bf16"),
}


def serve(name: str, setting: Setting, pipe: Connection) -> None:
    """A side's process: a step whenever it is told to, until it is told to end."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    with torch.inference_mode():
        step = SIDES[name](setting)
        step()
        pipe.send(torch.get_num_threads())
        while pipe.recv():
            began, worked = time.perf_counter(), time.process_time()
            step()
            pipe.send((time.perf_counter() - began, time.process_time() - worked))


class Side:
    """A side's process, seen from here."""

    def __init__(self, name: str, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(name, setting, other), daemon=True)
        self._process.start()
        other.close()
        self.threads: int = self._answer()

    def step(self) -> tuple[float, float]:
        """Seconds of a step, by the clock and by the processor."""
        self._pipe.send(True)
        clock, processor = self._answer()
        return clock, processor

    def end(self) -> None:
        """End the process."""
        self._pipe.send(False)
        self._process.join()

    def _answer(self) -> Any:
        if not self._pipe.poll(WAIT_SECONDS):
            raise TimeoutError(f"{self._process.name} did not answer within {WAIT_SECONDS:.0f} s.")
        return self._pipe.recv()


def report(found: Mapping[str, Sequence[tuple[float, float]]], threads: Mapping[str, int]) -> dict[str, Any]:
    """What is printed of the seconds of each round."""
    by_clock = {name: [clock for clock, _ in times] for name, times in found.items()}
    by_processor = {name: [processor for _, processor in times] for name, times in found.items()}
    return {
        "seconds": by_clock,
        "cpu_seconds": by_processor,
        "ratio": to_stock(by_clock),
        "cpu_ratio": to_stock(by_processor),
        "threads": dict(threads),
    }


def to_stock(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Medians over the stock network's."""
    whole = statistics.median(times[STOCK])
    return {name: round(statistics.median(own) / whole, 3) for name, own in times.items() if name != STOCK}


def main() -> int:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=[name for name, kind in KINDS.items() if not kind.is_xl])
    parser.add_argument("--folder", type=Path, help="where the checkpoint is kept; else it is written anew")
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 leaves it to torch")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help="ours; else what runs fast")
    args = parser.parse_args()
    fast = ["fp32", "bf16"] if has("avx512_bf16") or has("amx_bf16") else ["fp32"]
    names = [STOCK, *(f"ours {precision}" for precision in args.precision or fast)]
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        folder = write(args.kind, args.folder or Path(made))
        width = sum(text.width for text in KINDS[args.kind].text)
        setting = Setting(folder, width, args.size, args.threads)
        sides = {name: Side(name, setting) for name in names}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name, side in sides.items():
                found[name].append(side.step())
        for side in sides.values():
            side.end()
    print(json.dumps(report(found, {name: side.threads for name, side in sides.items()})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
