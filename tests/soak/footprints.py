"""What a node's processes take, round after round, and whether that stays."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from node import Child, Node

LONG = 5
"""Rounds without a fault that an engine must have lived through to say what its life adds."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one process takes: bytes, descriptors, threads."""

    memory: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) * 1024
        return cls(memory, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))  # noqa: PTH208

    @classmethod
    def typical(cls, found: Sequence["Footprint"]) -> "Footprint":
        """The median of each."""
        memory, files, threads = (
            int(median(getattr(each, name) for each in found)) for name in ("memory", "files", "threads")
        )
        return cls(memory, files, threads)

    def since(self, other: "Footprint") -> "Footprint":
        return Footprint(self.memory - other.memory, self.files - other.files, self.threads - other.threads)

    def __str__(self) -> str:
        return f"{self.memory / 1e6:.1f} MB, {self.files} descriptors, {self.threads} threads"


@dataclass(frozen=True, slots=True)
class Round:
    """How a node was left by a round.

    Attributes:
        front: what it takes.
        engine: the same of its engine; None while there is none.
        process: that engine.
    """

    front: Footprint
    engine: Footprint | None
    process: Child | None

    @classmethod
    def of(cls, node: Node) -> "Round":
        engine = node.engine
        try:
            taken = Footprint.of(engine.pid) if engine else None
        except (FileNotFoundError, ProcessLookupError, KeyError):
            engine = taken = None
        return cls(Footprint.of(node.process.pid), taken, engine)

    def __str__(self) -> str:
        return f"front {self.front}; engine {self.engine}"


def thirds(rounds: Sequence[Round]) -> list[Footprint]:
    """What the front typically took in each third of the rounds."""
    size = max(len(rounds) // 3, 1)
    parts = rounds[:size], rounds[size : 2 * size], rounds[2 * size :]
    return [Footprint.typical([each.front for each in part]) for part in parts if part]


def grown(rounds: Sequence[Round]) -> list[Footprint]:
    """What each engine that lived long took more at its end than after its second round."""
    lives: dict[Child, list[Footprint]] = {}
    for each in rounds:
        if each.process is not None and each.engine is not None:
            lives.setdefault(each.process, []).append(each.engine)
    return [life[-1].since(life[1]) for life in lives.values() if len(life) >= LONG]
