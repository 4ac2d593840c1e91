"""One step of a full-size UNet: ours, and the stock diffusers network as it comes, in turn.

    python -m bench.steps sd15 --size 512 --rounds 3

Random weights; two rows, as guidance takes. The stock network runs eagerly in fp32 on tensors in NCHW order.
Ours is asked through the same door as the engine's, in fp32 and, where the processor has instructions for
it, in bf16. Prints JSON: the seconds of each round.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from bench.machine import has
from bench.random_checkpoint import KINDS, write
from sdserver.bundle.bundle import Bundle
from sdserver.calls import Conditioning, Predict
from sdserver.jobs.model import Model

ROWS = 2
TOKENS = 77
TIMESTEP = 500.0
Step = Callable[[], object]


def stock(folder: Path, x: Tensor, context: Tensor) -> Step:
    """The stock network's step."""
    unet: Any = UNet2DConditionModel.from_pretrained(
        folder / "unet", torch_dtype=torch.float32, local_files_only=True
    )
    unet.eval()
    return lambda: unet(x, TIMESTEP, encoder_hidden_states=context, return_dict=False)


def ours(folder: Path, precision: Any, x: Tensor, context: Tensor) -> Step:
    """Our bundle's step."""
    bundle, model = Bundle("cpu", precision), Model(str(folder))
    rows = [Predict(model, one, TIMESTEP, Conditioning(text)) for one, text in zip(x, context, strict=True)]

    def step() -> None:
        for result in bundle.run(rows):
            assert isinstance(result, Tensor), result

    return step


def interleaved(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round; each is run once before, to warm up."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            found[name].append(time.perf_counter() - began)
    return found


def main() -> int:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=[name for name, kind in KINDS.items() if not kind.is_xl])
    parser.add_argument("--folder", type=Path, help="where the checkpoint is kept; else it is written anew")
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 leaves it to torch")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="bench-") as made, torch.inference_mode():
        folder = write(args.kind, args.folder or Path(made))
        width = sum(text.width for text in KINDS[args.kind].text)
        generator = torch.Generator().manual_seed(1)
        x = torch.empty(ROWS, 4, args.size // 8, args.size // 8).normal_(generator=generator)
        context = torch.empty(ROWS, TOKENS, width).normal_(generator=generator)
        steps = {"stock fp32": stock(folder, x, context), "ours fp32": ours(folder, "fp32", x, context)}
        if has("avx512_bf16") or has("amx_bf16"):
            steps["ours bf16"] = ours(folder, "bf16", x, context)
        found = interleaved(steps, args.rounds)
    print(json.dumps({"seconds": found, "threads": torch.get_num_threads()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
