"""The UNet compiled, beside the same network run eagerly and the stock one: time and difference.

    python -m bench.compiled tests/goldens/checkpoints/tiny-sd15.safetensors --threads 1

For checkpoints of Stable Diffusion 1 and 2. Each shape is run in turn by all, through the same door as the
engine's; CPU seconds of the process count on a CPU, so that other programs disturb little. Prints JSON. Ends
with 1 if the compiled network was not used.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from bench.machine import facts
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.tuner import Tuning
from sdserver.calls import Conditioning, Predict, UseModel
from sdserver.jobs.model import Model, ModelFacts

TOKENS: Final = 77
TIMESTEP: Final = 500.0
Run = Callable[[Sequence[Predict]], Tensor]


def rows_of(model: Model, rows: int, size: int, width: int) -> list[Predict]:
    """Calls with their own latents and texts."""
    generator = torch.Generator().manual_seed(rows)
    side = size // 8
    return [
        Predict(
            model,
            torch.empty(4, side, side).normal_(generator=generator),
            TIMESTEP,
            Conditioning(torch.empty(TOKENS, width).normal_(generator=generator)),
        )
        for _ in range(rows)
    ]


def through(bundle: Bundle) -> Run:
    """A bundle's UNet."""

    def run(calls: Sequence[Predict]) -> Tensor:
        results = [result for result in bundle.run(calls) if isinstance(result, Tensor)]
        assert len(results) == len(calls)
        return torch.stack(results)

    return run


def stock(unet: Any) -> Run:
    """The UNet as diffusers runs it, in the order of memory that it comes in."""
    unet.to(memory_format=torch.contiguous_format)

    def run(calls: Sequence[Predict]) -> Tensor:
        x, context = (
            torch.stack(one)
            for one in zip(*((call.x, call.conditioning.context) for call in calls), strict=True)
        )
        (found,) = unet(x, TIMESTEP, encoder_hidden_states=context, return_dict=False)
        result: Tensor = found
        return result

    return run


def loaded(checkpoint: str, precision: Any, folder: Path | None) -> Bundle:
    """A bundle with its checkpoint."""
    bundle = Bundle("cpu", precision)
    bundle.tune(Tuning(compiled=folder))
    (told,) = bundle.run([UseModel(Model(checkpoint))])
    if not isinstance(told, ModelFacts):
        raise SystemExit(f"{checkpoint} cannot be loaded: {told!r}")
    return bundle


def unet_of(bundle: Bundle, checkpoint: str) -> Any:
    """The network itself."""
    return bundle._use(Model(checkpoint)).network._unet


def wait(bundle: Bundle, checkpoint: str, most: float) -> float | None:
    """Seconds until the compiled network is there; None if it does not come."""
    began = time.perf_counter()
    faster: Any = bundle._use(Model(checkpoint)).network._faster
    while faster._workshop.ask(faster._key, faster._blueprint) is None:
        if time.perf_counter() - began > most:
            return None
        time.sleep(0.2)
    return time.perf_counter() - began


def compared(runs: dict[str, Run], calls: Sequence[Predict], rounds: int, repeats: int) -> dict[str, Any]:
    """Medians of seconds a call, and how far compiled output is from eager output."""
    for run in runs.values():  # a first call may be answered by the eager network
        run(calls)
    outputs = {name: run(calls) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.process_time()
            for _ in range(repeats):
                run(calls)
            times[name].append((time.process_time() - began) / repeats)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    return {
        "seconds": seconds,
        "of eager": seconds["compiled"] / seconds["eager"],
        "of stock": seconds["compiled"] / seconds["stock"],
        "greatest difference": (outputs["compiled"] - outputs["eager"]).abs().max().item(),
        "greatest value": outputs["eager"].abs().max().item(),
    }


def main() -> int:
    """Print what was measured."""
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    checkpoint = str(args.checkpoint)
    with tempfile.TemporaryDirectory(prefix="bench-") as made, torch.inference_mode():
        eager = loaded(checkpoint, args.precision, None)
        compiled = loaded(checkpoint, args.precision, args.folder or Path(made) / "compiled")
        ready = wait(compiled, checkpoint, args.seconds)
        if ready is None:
            print("It was not compiled; see the log.", file=sys.stderr)
            return 1
        as_it_comes = stock(unet_of(loaded(checkpoint, "fp32", None), checkpoint))
        runs = {"stock": as_it_comes, "eager": through(eager), "compiled": through(compiled)}
        width = unet_of(eager, checkpoint).config.cross_attention_dim
        found = {
            str(rows): compared(
                runs,
                rows_of(Model(checkpoint), rows, args.size, width),
                args.rounds,
                max(1, args.repeats // rows),
            )
            for rows in args.rows
        }
        faster: Any = compiled._use(Model(checkpoint)).network._faster
        is_used = bool(faster._proven) and not faster._is_given_up
    told = {"about": facts(), "size": args.size, "threads": torch.get_num_threads()}
    print(json.dumps({**told, "ready after": ready, "is used": is_used, "rows": found}, indent=1))
    return 0 if is_used else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of ours; stock is fp32"
    )
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=32, help="calls a round, divided by the rows")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 leaves it to torch")
    parser.add_argument("--folder", type=Path, help="where compiled networks are kept; else compiled anew")
    parser.add_argument("--seconds", type=float, default=1800, help="to wait for the compiler")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
