"""`python -m tests.soak.uploads`: pictures saved at a steady pace while the store is away and the node dies.

With PYTHONPATH=tests/support. The real front with a toy for an engine, moto's S3 server in its checking mode
behind the fault proxy. The store refuses all connections for a minute while the node is up, and meanwhile the
node is killed and started again; then connections are reset in mid-object, and cut before the answer; then
the node is killed while it uploads. Ends with an AssertionError unless the objects are the pictures on the
disk, and each answer was 200 with its picture.
"""

import argparse
import contextlib
import hashlib
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import requests
from fault_proxy import FaultProxy, Faults, fault_proxy
from node import CHECKPOINT, ROOT, Node, wait_until
from object_stores import BUCKET, ObjectStore, moto

PREFIX = "soak"
PATIENCE = 400.0
SIZE = {"width": 64, "height": 64, "steps": 1, "save_images": True}


class UploadingNode(Node):
    """A node of `tests.soak.toy_node` that uploads."""

    module = "tests.soak.toy_node"

    def __init__(self, data_dir: Path, environ: dict[str, str]) -> None:
        paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests/support"))
        flags = ["--upload-url", f"s3://{BUCKET}/{PREFIX}"]
        super().__init__(data_dir, flags, environ | {"PYTHONPATH": paths})


@dataclass
class Figures:
    """What was seen.

    Attributes:
        pictures: files on the disk.
        objects: in the store.
        asked: what became of requests.
        seconds: that answers took.
        waiting: most pictures that waited at once.
        rest: seconds from the store's return until nothing waited.
    """

    pictures: int = 0
    objects: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    results: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    kills: int = 0
    rest: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.pictures} pictures, {self.objects} objects, the same; {self.kills} times killed; "
            f"requests {dict(self.asked)}, {statistics.median(self.seconds):.2f} s each (median); "
            f"at most {self.waiting} waited, none {self.rest:.0f} s after the store came back; "
            f"tries {dict(sorted(self.results.items()))}"
        )


class _Run:
    def __init__(self, folder: Path, store: ObjectStore, proxy: FaultProxy, every: float) -> None:
        self._folder, self._environ, self._proxy = folder, store.environ(proxy.port), proxy
        self._every = every
        self._over = threading.Event()
        self._clients: list[threading.Thread] = []
        self.figures = Figures()
        self.node = UploadingNode(folder, self._environ)
        self.node.wait_ready()

    def save(self) -> None:
        """Ask for a picture every so often, until `stop`, also while there is no node."""
        self._clients = [threading.Thread(target=self._save, args=(number,)) for number in range(2)]
        for client in self._clients:
            client.start()

    def _save(self, number: int) -> None:
        seed = number * 1_000_000
        while not self._over.wait(self._every):
            seed += 1
            began = time.monotonic()
            try:
                answer = self.node.api("POST", "/sdapi/v1/txt2img", json=SIZE | {"seed": seed})
            except requests.RequestException as error:
                is_refused = "Connection refused" in str(error)
                self.figures.asked["refused" if is_refused else "cut"] += 1
                continue
            self.figures.asked[str(answer.status_code)] += 1
            self.figures.seconds.append(time.monotonic() - began)
            if len(answer.json().get("images", [])) != 1 or "X-Upload-Error" in answer.headers:
                self.figures.asked["wrong"] += 1

    def during(self, faults: Faults, seconds: float) -> None:
        """Let the network be like this for so long."""
        self._proxy.faults = faults
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(0.2, seconds))
            self.figures.waiting = max(self.figures.waiting, self._waiting())

    def until_stored(self, faults: Faults) -> None:
        """Let the network be like this until the node sends what waits, which is not over then."""
        stored = self._stored()
        self._proxy.faults = faults
        wait_until(lambda: self._stored() > stored)
        assert self._waiting()

    def kill(self) -> None:
        """End the node by SIGKILL and start it again."""
        self._note_results()
        self.node.signal(signal.SIGKILL)
        assert self.node.exit_code() == -signal.SIGKILL
        self.figures.kills += 1
        self.node = UploadingNode(self._folder, self._environ)
        self.node.wait_ready()

    def stop(self) -> None:
        """Save no more, and wait until nothing waits."""
        self._over.set()
        for client in self._clients:
            client.join()
        began = time.monotonic()
        while self._waiting():
            assert time.monotonic() - began < PATIENCE, self.node.status()["uploads"]
            time.sleep(0.1)
        self.figures.rest = time.monotonic() - began
        self._note_results()

    def end(self) -> None:
        """End the node if it runs."""
        self._over.set()
        if self.node.process.poll() is None:
            self.node.signal(signal.SIGTERM)
            self.node.process.wait(PATIENCE)
        for client in self._clients:
            client.join()

    def _waiting(self) -> int:
        return int(self.node.status()["uploads"]["files"])

    def _stored(self) -> int:
        return int(self.node.status()["uploads"]["results"].get("stored", 0))

    def _note_results(self) -> None:
        self.figures.results.update(self.node.status()["uploads"]["results"])


def uploads(folder: Path, away: float, kills: int, resets: float, every: float) -> Figures:
    """Save pictures while all that happens.

    Args:
        away: seconds in which the store cannot be reached.
        kills: how often the node is killed meanwhile; once more while it uploads.
        resets: seconds of each kind of reset and cut.
        every: seconds between two pictures of each of two clients.
    """
    models = folder / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    (models / CHECKPOINT.name).symlink_to(CHECKPOINT)
    with moto() as store, fault_proxy(store.port) as proxy, contextlib.ExitStack() as stack:
        run = _Run(folder, store, proxy, every)
        stack.callback(run.end)
        run.save()
        run.during(Faults(), 1)
        for _ in range(kills):
            run.during(Faults(down=True), away / (kills + 1))
            run.kill()
        run.during(Faults(down=True), away / (kills + 1))
        size = min(path.stat().st_size for path in (folder / "outputs").rglob("*.png"))
        half = size // 2
        for faults in (
            Faults(reset=True, cut_after=half),
            Faults(reset=True, cut_answer_after=10),
            Faults(cut_after=half),
        ):
            run.during(faults, resets)
        run.until_stored(Faults(bandwidth=size, slice=max(1, size // 10)))
        run.kill()
        run.during(Faults(), 1)
        run.stop()
        found = run.figures
        _check(folder, store, found)
    return found


def _check(folder: Path, store: ObjectStore, found: Figures) -> None:
    """The objects are the pictures. One whose node died before it got its name may be there, too."""
    files = [path for path in (folder / "outputs").rglob("*") if path.is_file()]
    pictures = _digests(path.read_bytes() for path in files if path.suffix != ".tmp")
    unnamed = _digests(path.read_bytes() for path in files if path.suffix == ".tmp")
    objects = store.objects(PREFIX)
    there = _digests(objects.values())
    found.pictures, found.objects = len(pictures), len(objects)
    assert pictures <= there <= pictures | unnamed, (len(pictures - there), len(there - pictures))
    assert len(objects) == len(there)
    assert not list((folder / ".cache" / "uploads").iterdir())
    assert set(found.asked) <= {"200", "cut", "refused"}, found.asked
    assert found.asked["200"] <= len(pictures) <= found.asked["200"] + found.asked["cut"]


def _digests(contents: Iterable[bytes]) -> set[str]:
    return {hashlib.sha256(data).hexdigest() for data in contents}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--away", type=float, default=60, help="seconds")
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"{uploads(Path(folder), given.away, given.kills, resets=8, every=0.5)}\n")


if __name__ == "__main__":
    main()
