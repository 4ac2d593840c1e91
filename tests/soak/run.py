"""`python -m tests.soak.run --jobs 10000`: rounds of mixed jobs and faults, and what the node takes.

With PYTHONPATH=tests/support. Each round is 100 jobs. In eight of twenty rounds the engine is killed,
stopped or made to crash, in turn; the others show what a longer life adds. Pictures are saved and uploaded
to a store that fails at times.
"""

import argparse
import hashlib
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
from patience import PATIENCE, wait_until

from tests.soak.footprints import Footprint, Round, grown, thirds
from tests.soak.jobs import Clients, ToyNode, trouble
from tests.soak.put_store import PutStore, put_store

FAULTS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV)
TROUBLED, CYCLE = 8, 20
JOBS = 100
"""Of a round."""
MOST = Footprint(20_000_000, 8, 4)
"""What the front may take more in the last third than in the one before, or an engine over its life.

Results, 1,000 ended jobs and the allocator's pages fill up in the first third.
"""


@dataclass(frozen=True)
class Found:
    """What a soak showed.

    Attributes:
        rounds: how each left the node.
        outcomes: of all jobs.
        wrong: what should not have happened.
        faults: signals that the engine got.
        uploaded: pictures in the store.
        left: files that nobody needs any more, pictures that are in one place alone, tracebacks.
        seconds: it took.
    """

    rounds: list[Round]
    outcomes: Counter[str]
    wrong: list[str]
    faults: int
    uploaded: int
    left: list[str]
    seconds: float

    @property
    def told(self) -> str:
        total = f"{self.outcomes.total()} jobs and {self.faults} faults in {self.seconds:.0f} s"
        lines = [
            f"{total}, {self.uploaded} pictures uploaded",
            f"outcomes: {dict(sorted(self.outcomes.items()))}",
            *(f"front, third {number}: {third}" for number, third in enumerate(thirds(self.rounds), 1)),
            *(f"an engine, from its second round to its last: {life} more" for life in grown(self.rounds)),
            f"wrong: {self.wrong[:5]}, left: {self.left}",
        ]
        return "\n".join(lines)

    def complaints(self, most: Footprint = MOST) -> list[str]:
        """What does not hold: nothing went wrong, and nothing grows by more than this."""
        said = [*self.wrong, *self.left]
        before, after = thirds(self.rounds)[-2:]
        growths = [("the front", after.since(before)), *(("an engine", life) for life in grown(self.rounds))]
        for who, more in growths:
            if more.memory > most.memory or more.files > most.files or more.threads > most.threads:
                said.append(f"{who} grows: {more}")
        return said


def soak(folder: Path, rounds: int, jobs: int = JOBS) -> Found:
    """Rounds of so many jobs each."""
    models = folder / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    (models / CHECKPOINT.name).symlink_to(CHECKPOINT)
    began = time.monotonic()
    kinds = itertools.cycle(FAULTS)
    found: list[Round] = []
    sent = 0
    with put_store() as store:
        node = ToyNode(folder, store.url)
        try:
            node.wait_ready()
            clients = Clients(node, 1)
            for number in range(rounds):
                faults = [next(kinds)] if number % CYCLE < TROUBLED else []
                sent += _round(node, clients, jobs, faults)
                found.append(Round.of(node))
                sys.stderr.write(f"round {number + 1} after {time.monotonic() - began:.0f} s: {found[-1]}\n")
            left = [*_not_uploaded(node, folder, store), *_left(node, folder)]
        finally:
            node.signal(signal.SIGTERM)
            node.process.wait(PATIENCE)
    left += [f"still there: {process}" for process in node.orphans()]
    seconds = time.monotonic() - began
    return Found(found, clients.outcomes, clients.wrong, sent, len(store.digests), left, seconds)


def _round(node: ToyNode, clients: Clients, jobs: int, faults: list[signal.Signals]) -> int:
    """One round; how many faults there were."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        troubling = pool.submit(trouble, node, faults, 0.3, over)
        clients.send(jobs)
        over.set()
        sent = troubling.result()
    node.wait_idle()
    return sent


def _not_uploaded(node: ToyNode, folder: Path, store: PutStore) -> list[str]:
    """Where the store and the folder of pictures differ, once nothing waits."""
    wait_until(lambda: node.status()["uploads"]["files"] == 0, pause=0.5)
    saved = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "outputs").rglob("*")
        if path.is_file()
    }
    missing, unknown = saved - store.digests, store.digests - saved
    said = [f"{len(missing)} pictures of {len(saved)} were not uploaded"] if missing else []
    return [*said, f"{len(unknown)} objects are no pictures"] if unknown else said


def _left(node: ToyNode, folder: Path) -> list[str]:
    parts = (".part", ".tmp")
    left = [str(path) for path in folder.rglob("*") if path.suffix in parts or path.name.startswith(".tmp")]
    if "Traceback" in node.stderr:
        left.append(node.stderr[-3000:])
    return left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), max(parser.parse_args().jobs // JOBS, 3))
    complaints = found.complaints()
    print(found.told, *complaints, sep="\n")  # noqa: T201
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
