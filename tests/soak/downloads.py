"""`python -m tests.soak.downloads`: downloads that are cut, killed, and wanted by eight processes at once.

With PYTHONPATH=tests/support. Each is a process of its own; a server on loopback counts what it sends. Ends
with an AssertionError unless each file arrives as the server has it, nothing else is left beside it, and
nothing was fetched twice but what a cut costs.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from node import CHECKPOINT, ROOT, running

from tests.soak.file_server import Fault, FileServer, Kind, ServedFile, Validator, checkpoint, file_server

MIB = 1 << 20
PATIENCE = 300.0
SILENCE = 2.0
BUFFERS = 4 * MIB
"""What the kernel may hold between the server and a client that ends without reading it."""
USUAL_LOSS = MIB // 2
"""What it holds on average, at most."""
MOST_LIVES = 40
ENDS: tuple[Kind, ...] = ("cut", "cut", "cut", "reset", "reset", "reset", "stall")
EXTRAS: tuple[Kind, ...] = ("refuse", "no range", "whole")
CHANGES: tuple[Kind, ...] = ("change", "liar")


@dataclass
class Figures:
    """What was seen.

    Attributes:
        faults: answers by what was wrong with them, and signals that ended a process.
        lost: bytes that had to be sent again, of each resume.
        lives: processes that were needed.
    """

    faults: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)
    files: int = 0
    lives: int = 0
    size: int = 0
    sent: int = 0

    def add(self, file: ServedFile, lost: list[int]) -> None:
        self.files += 1
        self.size += len(file.body)
        self.sent += file.sent
        self.lost += lost
        self.faults.update(answer.fault.kind for answer in file.answers if answer.fault)

    def __str__(self) -> str:
        median, most = (statistics.median(self.lost), max(self.lost)) if self.lost else (0, 0)
        return (
            f"{self.files} files, {self.lives} processes, {dict(sorted(self.faults.items()))}; "
            f"{self.size / MIB:.1f} MiB fetched as {self.sent / MIB:.1f}; "
            f"sent again at a resume: median {median / 1024:.0f} KiB, most {most / 1024:.0f} KiB"
        )


def start(server: FileServer, path: str, folder: Path, *flags: str) -> "subprocess.Popen[str]":
    """A process that downloads."""
    env = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    command = [sys.executable, "-m", "tests.soak.downloader", server.url(path), str(folder), *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What it printed until its end."""
    out, errors = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors, errors
    return out.strip(), errors


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.003)


def check(folder: Path, name: str, file: ServedFile) -> None:
    """The folder holds the file, the index, and the lock files that stay; nothing else."""
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file.sha256
    assert {path.name for path in folder.iterdir()} == {name, ".downloads"}
    left = {path.name for path in (folder / ".downloads").iterdir()}
    (key,) = json.loads((folder / ".downloads/index.json").read_text())
    assert left == {"index.json", "index.lock", f"{key}.lock"}, left
    assert not any(answer.endured for answer in file.answers)


def lost_bytes(file: ServedFile, *, is_resumable: bool, is_killed: bool) -> list[int]:
    """How much each request asks for again of what was sent before it.

    An orderly end and silence cost nothing, the end of a process or a reset what the kernel held. What
    does not fit together is fetched anew.
    """
    lost: list[int] = []
    held, slack, is_anew = 0, 0, False
    for answer in file.answers:
        asked = answer.asked or 0
        if is_anew:
            assert answer.asked is None, file.answers
        else:
            assert held - slack <= asked <= held, file.answers
            lost.append(held - asked)
        kind = answer.fault.kind if answer.fault else None
        if kind == "refuse":
            held, slack, is_anew = asked, 0, False
            continue
        is_anew = not is_resumable or answer.status == 416 or (kind == "liar" and answer.status == 206)
        held = answer.begin + answer.sent
        slack = BUFFERS if kind == "reset" or answer.left or is_killed else 0
    return lost[1:]


def faults_of(draw: random.Random, size: int, cuts: int, may_change: bool) -> deque[Fault]:
    """So many ends at random bytes, one further in the file than the other, and other faults between."""
    others = (*EXTRAS, *CHANGES) if may_change else EXTRAS
    found: deque[Fault] = deque()
    for at in sorted(draw.randrange(size) for _ in range(cuts)):
        found.append(Fault(draw.choice(ENDS), at))
        if draw.random() < 0.35:
            found.append(Fault(draw.choice(others), at))
    return found


def cut_downloads(folder: Path, seed: int, cuts: int, per_file: int) -> Figures:
    """Connections that end at random bytes, on servers of all kinds."""
    draw, figures = random.Random(seed), Figures()
    kinds: tuple[tuple[Validator, bool], ...] = (
        ("etag", False), ("last-modified", False), ("none", True), ("etag", True), ("none", False),
    )  # fmt: skip
    with file_server() as server:
        for number, done in enumerate(range(0, cuts, per_file)):
            validator, has_digest = kinds[number % len(kinds)]
            size = draw.randrange(MIB, 4 * MIB)
            faults = faults_of(draw, size, min(per_file, cuts - done), not has_digest)
            changes = sum(fault.kind in CHANGES for fault in faults)
            versions = [
                checkpoint(size + 10_000 * (n // 2 % 2), draw.randrange(2**32)) for n in range(changes + 1)
            ]
            file = ServedFile(versions, validator, faults)
            server.files["/m.safetensors"] = file
            flags = ["--silence", str(SILENCE), "--backoff", "0.02", "--progress", "65536"]
            flags += ["--sha256", file.sha256] if has_digest else []
            place = folder / f"cut-{number}"
            lives = 0
            while True:
                lives += 1
                process = start(server, "/m.safetensors", place, *flags)
                _, errors = finish(process)
                if process.returncode == 0:
                    break
                # Given up after failures without progress: who supervises a node starts it again.
                assert "It was tried 8 times" in errors, errors
                assert lives < MOST_LIVES
            server.settle()
            assert not file.faults
            check(place, "m.safetensors", file)
            figures.lives += lives
            figures.add(
                file, lost_bytes(file, is_resumable=validator != "none" or has_digest, is_killed=False)
            )
    return figures


def kill_downloads(folder: Path, seed: int, kills: int, size: int = 6 * MIB) -> Figures:
    """Processes that are killed at random moments and started again."""
    draw, figures = random.Random(seed), Figures()
    with file_server() as server:
        while figures.faults["SIGKILL"] < kills:
            file = ServedFile([checkpoint(size, draw.randrange(2**32))], pause=0.001)
            server.files["/m.safetensors"] = file
            place = folder / f"killed-{figures.files}"
            before = figures.faults["SIGKILL"]
            for _ in range(min(draw.randrange(5, 13), kills - before)):
                if (place / "m.safetensors").exists():
                    break
                process = start(server, "/m.safetensors", place)
                _wait_for_a_moment(draw, file, process)
                process.kill()
                process.communicate()
                figures.lives += 1
                figures.faults["SIGKILL"] += process.returncode == -signal.SIGKILL
                assert process.returncode in {0, -signal.SIGKILL}
            requests = 0
            for _ in range(2):
                process = start(server, "/m.safetensors", place)
                out, errors = finish(process)
                assert out == str(place / "m.safetensors"), errors
                server.settle()
                check(place, "m.safetensors", file)
                figures.lives += 1
                # The second needs no network.
                assert requests in {0, len(file.answers)}
                requests = len(file.answers)
            figures.add(file, lost_bytes(file, is_resumable=True, is_killed=True))
    assert figures.sent - figures.size <= USUAL_LOSS * figures.faults["SIGKILL"]
    return figures


def _wait_for_a_moment(draw: random.Random, file: ServedFile, process: "subprocess.Popen[str]") -> None:
    """A random time, a random byte, or right after the last byte."""
    kind = draw.choice(("time", "byte", "byte", "byte", "end"))
    already = file.sent
    if kind == "time":
        time.sleep(draw.uniform(0, 1))
        return
    most = len(file.body)
    if kind == "byte":
        enough = already + draw.randrange(max(1, most - already))
        wait_until(lambda: file.sent > enough or process.poll() is not None)
        return
    wait_until(lambda: any(a.begin + a.sent == most for a in file.answers) or process.poll() is not None)
    time.sleep(draw.uniform(0, 0.05))


def together(folder: Path, seed: int, kills: int, processes: int = 8, size: int = 8 * MIB) -> Figures:
    """Several processes that want one file at once; those that fetch it are killed, so many of them."""
    figures = Figures(lives=processes)
    with file_server() as server:
        file = server.files["/m.safetensors"] = ServedFile([checkpoint(size, seed)], pause=0.002)
        place = folder / f"together-{kills}"
        started = [start(server, "/m.safetensors", place) for _ in range(processes)]
        for number in range(kills):
            enough = size * (number + 1) // (kills + 1)
            wait_until(lambda e=enough, n=number: file.sent >= e and len(file.answers) > n)  # type: ignore[misc]
            (record,) = (place / ".downloads").glob("*.owner")
            holder = json.loads(record.read_text())["pid"]
            (process,) = [one for one in started if one.pid == holder]
            process.kill()
            process.communicate()
            started.remove(process)
            figures.faults["SIGKILL"] += 1
        results = [finish(process) for process in started]
        server.settle()
        assert [out for out, _ in results] == [str(place / "m.safetensors")] * len(started), results
        check(place, "m.safetensors", file)
        assert len(file.answers) == 1 + kills, file.answers
        figures.add(file, lost_bytes(file, is_resumable=True, is_killed=bool(kills)))
        assert figures.sent - size <= USUAL_LOSS * kills
    return figures


def kill_nodes(folder: Path, seed: int, kills: int) -> Figures:
    """The whole node, killed while it has its checkpoint fetched; the last one serves it."""
    draw, figures = random.Random(seed), Figures()
    with file_server() as server:
        body = CHECKPOINT.read_bytes()
        file = server.files[f"/{CHECKPOINT.name}"] = ServedFile([body], pause=0.002)
        flags = ("--model_url", server.url(f"/{CHECKPOINT.name}"))
        for enough in sorted(draw.randrange(len(body)) for _ in range(kills)):
            with running(folder, *flags) as node:
                wait_until(lambda e=enough: file.sent > e)  # type: ignore[misc]
                node.signal(signal.SIGKILL)
                assert node.exit_code() == -signal.SIGKILL
            server.settle()
            figures.faults["SIGKILL"] += 1
        with running(folder, *flags) as node:
            node.wait_ready()
            assert len(node.txt2img(steps=1).images) == 1
        server.settle()
        check(folder / "models" / "Stable-diffusion", CHECKPOINT.name, file)
        figures.lives = kills + 1
        figures.add(file, lost_bytes(file, is_resumable=True, is_killed=True))
        assert figures.sent - figures.size <= USUAL_LOSS * kills
    return figures


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--node-kills", type=int, default=10)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows: tuple[tuple[str, Callable[[], Figures]], ...] = (
            ("cut", lambda: cut_downloads(folder, given.seed, given.cuts, 10)),
            ("killed", lambda: kill_downloads(folder, given.seed, given.kills)),
            ("8 at once", lambda: together(folder, given.seed, 0)),
            ("8 at once, those that fetch killed", lambda: together(folder, given.seed, 4)),
            ("the whole node, killed", lambda: kill_nodes(folder / "node", given.seed, given.node_kills)),
        )
        (folder / "node").mkdir()
        for name, run in rows:
            began = time.monotonic()
            sys.stdout.write(f"{name}: {run()}; {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
