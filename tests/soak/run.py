"""`python -m tests.soak.run --minutes N`: rounds of mixed jobs and faults, and what the front takes.

With PYTHONPATH=tests/support. Each round is 100 jobs; the engine is killed and stopped in turn.
"""

import argparse
import itertools
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from node import CHECKPOINT

from tests.soak.jobs import Clients, Footprint, ToyNode, trouble

FAULTS = (signal.SIGKILL, signal.SIGSTOP)


@dataclass(frozen=True)
class Found:
    """What a soak showed.

    Attributes:
        before: what the front took after the first round, which fills its caches.
        after: at the end.
        faults: signals that the engine got.
        left: files that nobody needs any more, and threads or children.
    """

    before: Footprint
    after: Footprint
    outcomes: Counter[str]
    wrong: list[str]
    faults: int
    left: list[str]
    seconds: float

    @property
    def told(self) -> str:
        return (
            f"{self.outcomes.total()} jobs and {self.faults} faults in {self.seconds:.0f} s: "
            f"{dict(sorted(self.outcomes.items()))}; before {self.before}, after {self.after}; "
            f"wrong {self.wrong[:5]}, left {self.left}"
        )


def soak(folder: Path, rounds: int, jobs: int, faults: int, minutes: float = 0.0) -> Found:
    """Rounds of jobs, each with so many faults; further rounds until the minutes are over."""
    models = folder / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    (models / CHECKPOINT.name).symlink_to(CHECKPOINT)
    node = ToyNode(folder)
    began, sent = time.monotonic(), 0
    before: Footprint | None = None
    kinds = itertools.cycle(FAULTS)
    try:
        node.wait_ready()
        clients = Clients(node, 1)
        done = 0
        while done < rounds or time.monotonic() - began < 60 * minutes:
            over = threading.Event()
            with ThreadPoolExecutor(1) as pool:
                troubling = pool.submit(trouble, node, [next(kinds) for _ in range(faults)], 0.3, over)
                clients.send(jobs)
                over.set()
                sent += troubling.result()
            done += 1
            node.wait_idle()
            now = Footprint.of(node.process.pid)
            before = before or now
            sys.stderr.write(f"round {done}: {now}\n")
        time.sleep(2)
        after = Footprint.of(node.process.pid)
        parts = (".part", ".tmp")
        left = [
            str(path) for path in folder.rglob("*") if path.suffix in parts or path.name.startswith(".tmp")
        ]
        if "Traceback" in node.stderr:
            left.append(node.stderr[-3000:])
    finally:
        node.signal(signal.SIGTERM)
        node.process.wait(60)
    assert before is not None
    found = clients.outcomes, clients.wrong, sent, left, time.monotonic() - began
    return Found(before, after, *found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    with tempfile.TemporaryDirectory() as folder:
        print(soak(Path(folder), 1, 100, 1, parser.parse_args().minutes).told)  # noqa: T201


if __name__ == "__main__":
    main()
