"""What loading a checkpoint costs: memory at its peak, seconds, and how soon a picture is there. Linux only.

    python -m bench.random_checkpoint sd15 FOLDER --single-file
    python -m bench.load FOLDER/random-sd15.safetensors --precision fp16

Prints JSON. A process of its own does the work, and its peak is what the kernel counted (`VmHWM`), pages of
mapped files included. `ratio` is the peak above what the process took once torch and the model libraries were
imported, over the size of the checkpoint's files.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.machine import facts
from sdserver.engine.entry import process

_CHILD: Final = "child"


def memory(name: str) -> int:
    """Bytes of one entry of /proc/self/status, such as VmRSS."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)


def size_of(checkpoint: Path) -> int:
    """Bytes of a checkpoint's files."""
    if checkpoint.is_file():
        return checkpoint.stat().st_size
    return sum(file.stat().st_size for file in checkpoint.rglob("*.safetensors"))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Load the checkpoint and make a picture, in this process."""
    process()
    import torch  # noqa: PLC0415 - the time to import it is measured

    imported, imported_cpu = time.perf_counter(), time.process_time()
    before = memory("VmRSS")
    if args.threads:
        torch.set_num_threads(args.threads)
    with torch.inference_mode():
        engine = _Engine(args)
        engine.load()
        loaded, loaded_cpu, peak = time.perf_counter(), time.process_time(), memory("VmHWM")
        resident = memory("VmRSS")
        if args.steps:
            engine.picture()
    size = size_of(args.checkpoint)
    return {
        "file_bytes": size,
        "imported_bytes": before,
        "loaded_bytes": resident,
        "peak_bytes": peak,
        "ratio": (peak - before) / size,
        "peak_with_picture_bytes": memory("VmHWM"),
        "import_seconds": imported - args.began,
        "import_cpu_seconds": imported_cpu,
        "load_seconds": loaded - imported,
        "load_cpu_seconds": loaded_cpu - imported_cpu,
        "first_picture_seconds": time.perf_counter() - args.began if args.steps else None,
        "cpu_seconds": time.process_time(),
    }


class _Engine:
    """The engine as its process builds it, and one job."""

    def __init__(self, args: argparse.Namespace) -> None:
        from sdserver.bundle.bundle import Bundle  # noqa: PLC0415 - imports torch
        from sdserver.engine.batcher import Batcher  # noqa: PLC0415
        from sdserver.engine.engine import Engine  # noqa: PLC0415
        from sdserver.engine.process import row_budget  # noqa: PLC0415
        from sdserver.programs.table import program_for  # noqa: PLC0415

        self._args = args
        self._events: list[Any] = []
        self._path = str(args.checkpoint.absolute())
        bundle = Bundle(args.device, args.precision)
        self._engine = Engine(bundle, program_for, Batcher(row_budget(16)), self._events.append, 16)

    def load(self) -> None:
        """Have the checkpoint on the device."""
        self._engine.load(self._path)
        self._run("Loaded")

    def picture(self) -> None:
        """Make one."""
        from sdserver.jobs.job import Noise, Prompt, Sampling, Size, Txt2Img  # noqa: PLC0415
        from sdserver.jobs.model import Model  # noqa: PLC0415

        limits = (self._args.steps, 7.0, 1.0, 0.0, 0.0, math.inf, 1.0, 0.0, 0.0, 0.0, False)
        self._engine.submit(
            Txt2Img(
                "first",
                Model(self._path),
                Prompt("a red circle", "", 1, "Original", 20),
                Size(self._args.size, self._args.size),
                Noise(1, 1, 0.0, None, 0, "CPU"),
                Sampling("Euler", "Automatic", *limits),
            )
        )
        self._run("Finished")

    def _run(self, ending: str) -> None:
        while self._engine.busy:
            self._engine.step()
        if ending not in [type(event).__name__ for event in self._events]:
            raise SystemExit(f"no {ending}: {self._events}")


def main() -> int:
    """Measure in a process of its own, and print what it found."""
    args = _arguments()
    if args.child:
        print(json.dumps(measured(args)))
        return 0
    command = [sys.executable, "-m", "bench.load", *sys.argv[1:], f"--{_CHILD}", "--began"]
    told = subprocess.run(  # noqa: S603 - ourselves
        [*command, str(time.perf_counter())], stdout=subprocess.PIPE, text=True, check=False
    )
    if told.returncode:
        return told.returncode
    print(json.dumps({"found": json.loads(told.stdout), "machine": facts()}, indent=2))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp16", "bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="of the first picture")
    parser.add_argument("--steps", type=int, default=1, help="of the first picture; 0 makes none")
    parser.add_argument(f"--{_CHILD}", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
