"""The comparisons that need a GPU, on one of them and within ten minutes.

    python -m bench.gpu                    SD1.5, then one step as sd-turbo takes, then SDXL
    python -m bench.gpu --parts sdxl --seconds 580
    python -m bench.gpu --flags=--compile  our server with other flags than --cuda-graphs
    python -m bench.gpu --dry              tiny, on the processor: whether it works at all

Full-size networks with random weights in fp16, which are valid for time. When the time is up, what was found
so far is printed; it is on disk after each part anyway.
"""

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Final

from bench.figures import Line, table
from bench.machine import facts
from bench.plan import Bench, Plan
from bench.run import end_in_order, measure
from bench.servers import ROOT

NOWHERE: Final = Path()
PARTS: Final = MappingProxyType(
    {
        "sd15": Plan(
            NOWHERE,
            size=512,
            clients=32,
            pictures=64,
            batches=(8, 16, 32),
            goals={"naive": ">= 4", "floor": ">= 0.5", "offline": ">= 0.9"},
        ),
        "turbo": Plan(
            NOWHERE,
            size=512,
            steps=1,
            cfg_scale=1.0,
            clients=32,
            pictures=128,
            batches=(8, 16, 32),
            goals={"naive": ">= 8", "offline": ">= 0.9"},
        ),
        "sdxl": Plan(
            NOWHERE,
            size=1024,
            clients=8,
            pictures=16,
            batches=(4, 8),
            goals={"naive": ">= 2", "floor": ">= 0.55", "offline": ">= 0.9"},
        ),
    }
)
CHECKPOINTS: Final = MappingProxyType({"sd15": "sd15", "turbo": "sd15", "sdxl": "sdxl"})
SCENARIOS: Final = MappingProxyType(
    {"sd15": ("identical", "latency", "mixed"), "turbo": ("identical",), "sdxl": ("identical",)}
)


class OutOfTime(BaseException):
    """The time is up. No Exception, so that nothing on the way takes it for a failure."""


def plan_of(part: str, checkpoint: Path, args: argparse.Namespace) -> Plan:
    """A part's plan on the device, or its dry run."""
    plan = replace(PARTS[part], checkpoint=checkpoint, rounds=args.rounds, flags=tuple(args.flags.split()))
    if not args.dry:
        return replace(plan, device=args.device, precision="fp16", threads=(0,), baseline_clients=4)
    small = replace(plan, size=64, clients=2, pictures=2, rounds=1, batches=(2,), sides=(128,))
    return replace(small, steps=min(plan.steps, 5), threads=(1,))


def written(part: str, folder: Path, args: argparse.Namespace) -> Path:
    """The part's checkpoint, made where the weights are drawn fast."""
    name = ("tiny-" if args.dry else "") + CHECKPOINTS[part]
    device = "cpu" if args.dry else args.device
    told = Bench(PARTS[part]).tool("random_checkpoint", name, str(folder), "--device", device)
    return Path(told["written"])


def all_parts(args: argparse.Namespace, folder: Path, lines: list[Line], about: dict[str, Any]) -> bool:
    """Measure part by part; whether none failed. Lines are added as they are found."""
    is_whole = True
    for part in args.parts:
        bench = Bench(plan_of(part, written(part, folder, args), args))
        output = args.output / f"{part}.json"
        try:
            for scenario in SCENARIOS[part]:
                is_whole &= measure(bench, [scenario], output, about)
        finally:
            lines += [replace(line, name=f"{part} {line.name}") for line in bench.lines]
    return is_whole


def main() -> int:
    """Measure, and print the table; 1 if a part failed, 2 if the time did not suffice for all."""
    args = _arguments()
    end_in_order()
    lines: list[Line] = []

    def out_of_time(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(args.seconds)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as made:
            code = 0 if all_parts(args, args.folder or Path(made), lines, facts()) else 1
    except OutOfTime:
        code = 2
    signal.alarm(0)
    print(table(lines))
    print("\nThe time was up before the end." if code == 2 else f"\nwritten to {args.output}")
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--dry", action="store_true", help="tiny, on the processor")
    parser.add_argument("--seconds", type=int, default=570, help="until it ends with what it has")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--flags", default="--cuda-graphs", help="of our server")
    parser.add_argument("--folder", type=Path, help="where the checkpoints are kept; else written anew")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "bench" / "gpu", help="folder")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
