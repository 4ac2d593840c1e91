"""Server processes on loopback, ours and the baseline, from start to end."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.processes import (
    LOOPBACK,
    accepts,
    cpu_seconds,
    descendants,
    free_ports,
    side_thread_seconds,
    without_torch,
)

Kind = Literal["ours", "naive"]

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300.0
END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Setup:
    """How a server is started.

    Attributes:
        checkpoint: a file or a diffusers folder.
        threads: of the processor, 0 for what is chosen at load or by torch.
        flags: of ours only, beside those that follow from the other values.
    """

    checkpoint: Path
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        start_seconds: from the process's start to the first connection its API took.
    """

    kind: Kind
    setup: Setup
    port: int
    pid: int
    start_seconds: float

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def beside_cpu_seconds(self) -> tuple[float, float]:
        """CPU time of all processes but the engine's, and of the engine's threads but its first.

        The first is the device's; where that has more threads, the second number has their time, too.
        """
        front = without_torch(self.pid)
        return sum(map(cpu_seconds, front)), sum(map(side_thread_seconds, self._engines(front)))

    def device_cpu_seconds(self) -> float:
        """CPU time of the engine's first thread, which is the device's."""
        engines = self._engines(without_torch(self.pid))
        return sum(cpu_seconds(engine) - side_thread_seconds(engine) for engine in engines)

    def _engines(self, front: list[int]) -> set[int]:
        return {self.pid, *descendants(self.pid)}.difference(front)


@contextmanager
def serving(kind: Kind, setup: Setup) -> Iterator[Server]:
    """A server that is ready; it is ended with the block.

    Raises:
        RuntimeError: it ended, or was not ready in time; what it wrote is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "log"
        port, other = free_ports(2)
        began = time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                _command(kind, setup, port, other, folder),
                cwd=folder,
                env=_environment(setup.threads),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait(process, port, began, log)
            yield Server(kind, setup, port, process.pid, time.perf_counter() - began)
        finally:
            _end(process)


def _command(kind: Kind, setup: Setup, port: int, other: int, folder: str) -> list[str]:
    shared = ["--port", str(port), "--threads", str(setup.threads), "--device", setup.device]
    shared += ["--precision", setup.precision]
    checkpoint = str(setup.checkpoint.resolve())
    if kind == "naive":
        return [sys.executable, "-m", "bench.naive", checkpoint, *shared]
    mine = ["--checkpoint", checkpoint, "--data-dir", folder, "--maintenance-port", str(other)]
    return [sys.executable, "-m", "sdserver", *mine, *shared, "--max-queue", "1024", *setup.flags]


def _environment(threads: int) -> dict[str, str]:
    """That of the caller, without settings for our server, and with as many OpenMP threads as asked for."""
    left_out = ("SDSERVER_", "COMMANDLINE_ARGS", "OMP_", "MKL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    openmp = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return kept | openmp | {"PYTHONPATH": str(ROOT)}


def _wait(process: subprocess.Popen[bytes], port: int, began: float, log: Path) -> None:
    while not accepts(port):
        if process.poll() is not None:
            raise RuntimeError(f"The server ended: {log.read_text()[-2000:]}")
        if time.perf_counter() - began > START_SECONDS:
            raise RuntimeError(f"The server did not get ready: {log.read_text()[-2000:]}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
