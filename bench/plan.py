"""What all scenarios stand on: the plan, servers at their best thread count, rounds without errors."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bench.client import Client
from bench.figures import Line, Round
from bench.mix import Law, identical, mixed
from bench.servers import ROOT, Kind, Server, Setup, serving

CPU_GOALS: Final = MappingProxyType(
    {
        "naive": ">= 4",
        "offline": ">= 0.9",
        "mixed": ">= 0.85",
        "latency": "<= 0.85",
        "compiled": "<= 0.6",
        "overhead": "<= 1",
        "step": "<= 0.6",
        "step bf16": "<= 0.35",
        "open": "<= 3",
        "equal": ">= 1",
        "near": ">= 0.999",
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured and how long.

    Attributes:
        size: pixels a side.
        clients: of the loaded rounds.
        pictures: counted in a round of ours, at least; of the baseline, which is serial, a quarter.
        rounds: of each side; ours has one more, so that it is first and last.
        baseline_clients: of the baseline in the loaded rounds, None for as many. It is serial: more of them
            only wait longer, until the round's end, too.
        batches: pictures in the static batches that are tried; one is taken as it is, like `threads`.
        sides: of the matrices whose products are the floor; those for the device if empty.
        threads: among which each server's best count is searched; one is taken as it is.
        flags: of our server.
        compiled: flags of our server that turn compilation on; empty where that is not measured.
        goals: what ratios shall be, by the lines they belong to.
    """

    checkpoint: Path
    device: str = "cpu"
    precision: str = "fp32"
    size: int = 64
    steps: int = 20
    cfg_scale: float = 7.0
    clients: int = 16
    pictures: int = 96
    rounds: int = 5
    baseline_clients: int | None = None
    batches: tuple[int, ...] = (4, 8, 16, 32)
    sides: tuple[int, ...] = ()
    threads: tuple[int, ...] = (1,)
    flags: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    goals: Mapping[str, str] = field(default_factory=lambda: CPU_GOALS)

    @property
    def identical(self) -> Law:
        """Requests that differ in their seeds only."""
        return identical(self.steps, self.size, self.size, self.cfg_scale)

    def mixed(self, *, sizes: bool = False) -> Law:
        """Requests that differ in everything."""
        return mixed(self.steps, self.size, self.size, sizes=sizes)


@dataclass(slots=True)
class Driven:
    """A running server and who asks it."""

    server: Server
    client: Client


class Bench:
    """Runs a plan's parts and keeps all that they found.

    Attributes:
        lines: of the table.
        record: for the JSON: every round, by what it was of.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lines: list[Line] = []
        self.record: dict[str, list[Any]] = {}
        self._best: dict[tuple[Kind, int], int] = {}

    def note(self, name: str, found: Any) -> None:
        """Keep a finding for the JSON, and tell it."""
        self.record.setdefault(name, []).append(found)
        print(f"{name}: {json.dumps(found)}", file=sys.stderr, flush=True)

    def line(self, name: str, ours: list[float], theirs: list[float], unit: str, goal: str = "") -> None:
        """Add a line to the table; `goal` names one of the plan's."""
        self.lines.append(Line(name, tuple(ours), tuple(theirs), unit, self.plan.goals.get(goal, "")))

    @contextmanager
    def servers(
        self, *kinds: Kind, clients: int, flags: tuple[str, ...] = (), threads: int | None = None
    ) -> Iterator[list[Driven]]:
        """Warm servers side by side, each at its best thread count for so many clients if none is given."""
        with ExitStack() as stack:
            driven = []
            for kind in kinds:
                count = threads or self.best_threads(kind, clients)
                setup = replace(self._setup(count), flags=self.plan.flags + flags)
                server = stack.enter_context(serving(kind, setup))
                self.note(f"{kind} start seconds", round(server.start_seconds, 2))
                client = Client(server.url, len(driven) * 500 + 1)
                self._warm(Driven(server, client), clients)
                driven.append(Driven(server, client))
            yield driven

    def best_threads(self, kind: Kind, clients: int) -> int:
        """The thread count at which a server answers most; found once for a kind and load."""
        # The baseline is serial: the load changes nothing.
        key = (kind, 1 if kind == "naive" else clients)
        if len(self.plan.threads) == 1:
            return self.plan.threads[0]
        if key not in self._best:
            rates: dict[int, float] = {}
            for threads in self.plan.threads:
                rates[threads] = self._rate(kind, key[1], threads)
                self.note(f"{kind} c={key[1]} pictures/s with {threads} threads", rates[threads])
            self._best[key] = max(rates, key=lambda threads: rates[threads])
        return self._best[key]

    def closed(self, driven: Driven, law: Law, clients: int, name: str) -> Round:
        """A round of a closed loop. Of ours whole waves are counted: pictures that share their batches end
        together, and a part of a wave says nothing of the rate.

        Raises:
            RuntimeError: an answer was not good: then no figure of it is worth anything.
        """
        is_serial = driven.server.kind == "naive"
        if is_serial and clients > 1:
            clients = self.plan.baseline_clients or clients
        waves = math.ceil(self.plan.pictures / clients)
        pictures = max(2, self.plan.pictures // 4) if is_serial else waves * clients
        warm = min(2, clients) if is_serial else clients
        return self._kept(driven.client.closed(law, clients, pictures, warm), driven, name)

    def closed_by_cpu(self, driven: Driven, law: Law, clients: int, name: str) -> tuple[Round, float]:
        """As `closed`, with the CPU seconds of our device's thread for all of the client's pictures."""
        before = driven.server.device_cpu_seconds()
        found = self.closed(driven, law, clients, name)
        spent = driven.server.device_cpu_seconds() - before
        pictures = len(driven.client.pictures)
        self.note(f"{name}, device's thread", {"CPU seconds": spent, "pictures": pictures})
        return found, spent

    @property
    def counts_cpu(self) -> bool:
        """Whether the device's work is all done by one thread of the processor."""
        return self.plan.device == "cpu" and self.plan.threads == (1,)

    def open(self, driven: Driven, law: Law, rate: float, name: str) -> Round:
        """A round of an open loop; raises as `closed` does."""
        pictures = self.plan.pictures // (4 if driven.server.kind == "naive" else 1)
        return self._kept(driven.client.open(law, rate, max(2, pictures)), driven, name)

    def tool(self, module: str, *arguments: str) -> Any:
        """What one of bench's own commands prints as JSON, run in a process of its own."""
        command = [sys.executable, "-m", f"bench.{module}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise RuntimeError(f"bench.{module} failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def device_arguments(self) -> list[str]:
        """The plan's device as bench's commands take it."""
        return ["--device", self.plan.device, "--precision", self.plan.precision]

    def _setup(self, threads: int) -> Setup:
        plan = self.plan
        return Setup(plan.checkpoint, plan.device, plan.precision, threads, plan.flags)

    def _rate(self, kind: Kind, clients: int, threads: int) -> float:
        with serving(kind, self._setup(threads)) as server:
            found = Client(server.url, 900).closed(self.plan.identical, clients, max(4, clients))
        return self._good(found).throughput

    def _warm(self, driven: Driven, clients: int) -> None:
        """Have it see the load once: what is made lazily is made now."""
        few = 1 if driven.server.kind == "naive" else clients
        self._good(driven.client.closed(self.plan.identical, few, few, 1))

    def _kept(self, found: Round, driven: Driven, name: str) -> Round:
        about = {"kind": driven.server.kind, "threads": driven.server.setup.threads}
        self.note(name, about | found.as_json())
        return self._good(found)

    def _good(self, found: Round) -> Round:
        if found.errors:
            raise RuntimeError(f"Answers were not good: {found.errors}")
        return found
