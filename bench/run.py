"""One command for all comparisons: starts the servers, lets them take turns, prints ratios, writes JSON.

    python -m bench.run                           the processor, everything, on the tiny checkpoint
    python -m bench.run --quick --scenario identical latency

Each server runs at the thread count that a short search found best for it. Ratios are of medians; nothing
else should run on the machine meanwhile.
"""

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.figures import table
from bench.machine import cores, facts
from bench.plan import Bench, Plan
from bench.scenarios import SCENARIOS
from bench.servers import ROOT

CHECKPOINT: Final = ROOT / "tests" / "goldens" / "checkpoints" / "tiny-sd15.safetensors"


def thread_counts(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the most: what is searched."""
    counts = [1 << k for k in range(most.bit_length()) if 1 << k < most]
    return (*counts, most)


def measure(bench: Bench, names: list[str], output: Path, about: dict[str, Any]) -> bool:
    """Run scenarios one by one; what is found so far is on disk after each.

    Returns:
        Whether none of them failed.
    """
    failed: dict[str, str] = {}
    for name in names:
        print(f"\n{name}: {SCENARIOS[name].__doc__}", file=sys.stderr, flush=True)
        try:
            SCENARIOS[name](bench)
        except (RuntimeError, ValueError) as error:
            failed[name] = str(error)
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
        write(output, bench, about | {"failed": failed, "load_average_after": os.getloadavg()[0]})
    return not failed


def write(output: Path, bench: Bench, about: dict[str, Any]) -> None:
    """All that is known, as JSON."""
    plan = {name: value for name, value in asdict(replace(bench.plan, goals={})).items() if name != "goals"}
    plan["checkpoint"] = bench.plan.checkpoint.name
    found = about | {"plan": plan, "lines": [line.as_json() for line in bench.lines], "rounds": bench.record}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")


def end_in_order() -> None:
    """Have SIGTERM leave all blocks, so that servers are ended, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> int:
    """Measure, and print the table; 1 if a scenario failed. Goals that are not met are no failure."""
    args = _arguments()
    end_in_order()
    plan = Plan(
        checkpoint=args.checkpoint,
        device=args.device,
        precision=args.precision,
        size=args.size,
        steps=args.steps,
        clients=args.clients,
        threads=tuple(args.threads or thread_counts(cores())),
        flags=tuple(args.flags.split()),
        compiled=tuple(args.compiled.split()),
    )
    plan = replace(plan, pictures=args.pictures or plan.pictures, rounds=args.rounds or plan.rounds)
    if args.quick:
        plan = replace(plan, pictures=args.pictures or 2 * plan.clients, rounds=args.rounds or 3)
    bench = Bench(plan)
    is_whole = measure(bench, args.scenario, args.output, facts())
    print(table(bench.lines))
    print(f"\nwritten to {args.output}")
    return 0 if is_whole else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenario", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="minutes: fewer and shorter rounds")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--pictures", type=int, help="counted in a round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, nargs="+", help="counts to search instead of 1, 2, 4, ...")
    parser.add_argument("--flags", default="", help='of our server, as --flags="--max-batch-rows 32"')
    parser.add_argument("--compiled", default="", help="those that turn compilation on; measured if given")
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "bench" / name)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
