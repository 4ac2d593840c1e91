"""Generated bad inputs over all routes: nothing fails, and nothing is left behind.

A sample here; `SDSERVER_SOAK_INPUTS=100000 scripts/test tests/soak` tries more.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.soak.inputs import Route, bad_inputs, routes_of

INPUTS = int(os.environ.get("SDSERVER_SOAK_INPUTS", "1500"))
SEED = int(os.environ.get("SDSERVER_SOAK_SEED", "1"))
AT_ONCE = 16
ON_PURPOSE = {501, 503, 504, 505}
"""Not served, no room, no time left, no such HTTP."""
PATIENCE = 120.0
SILENCE = 0.5
"""Seconds without an answer, after which a request is taken to be cut short."""
GROWTH = 60_000_000
"""Bytes: what is remembered is bounded, and is full after the warm-up; the rest is the allocator's."""


class Served:
    """A server's process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.pid, self.port = process.pid, port
        self.process = process

    @property
    def memory(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
            return bytes(answer.read())


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    command = [sys.executable, "-m", "tests.soak.served", str(folder)]
    errors = folder / "stderr.log"
    with (
        errors.open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            cwd=Path(__file__).parents[2],
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, errors.read_text()
        yield Served(process, int(line))


async def send(port: int, data: bytes) -> tuple[int, float]:
    """The answer's status, 0 for a connection that was closed without one, and the seconds it took."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        got = await first_bytes(reader, writer)
        while piece := await reader.read(65_536):
            got = (got + piece)[:2000]
    except ConnectionError:
        got = b""
    finally:
        writer.transport.abort()
    found = re.findall(rb"^HTTP/1.1 ([2-5][0-9]{2}) ", got, re.MULTILINE)
    return (int(found[0]) if found else 0), time.monotonic() - began


async def first_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What is answered; a server that still waits for more is told that no more will come."""
    reading = asyncio.ensure_future(reader.read(2000))
    done, _ = await asyncio.wait([reading], timeout=SILENCE)
    if not done:
        writer.write_eof()
    return await reading


async def send_all(port: int, inputs: Iterator[bytes], count: int) -> tuple[Counter[int], float]:
    statuses: Counter[int] = Counter()
    slowest, left = 0.0, count

    async def work() -> None:
        nonlocal slowest, left
        while left > 0:
            left -= 1
            data = next(inputs)
            status, seconds = await asyncio.wait_for(send(port, data), PATIENCE)
            assert status < 500 or status in ON_PURPOSE, (status, data[:3000])
            statuses[status] += 1
            slowest = max(slowest, seconds)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return statuses, slowest


@pytest.mark.timeout(0)
def test_bad_inputs_are_no_faults_and_leave_nothing_behind(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        routes: list[Route] = routes_of(json.loads(server.get("/openapi.json")))
        assert len(routes) > 60
        inputs = bad_inputs(SEED, routes)
        warm_up = INPUTS // 3
        before, _ = asyncio.run(send_all(server.port, inputs, warm_up))
        files, memory = server.files, server.memory
        statuses, slowest = asyncio.run(send_all(server.port, inputs, INPUTS - warm_up))
        grown = server.memory - memory
        print(  # noqa: T201 - the figures of docs/reliability.md
            f"{INPUTS} inputs: {dict(sorted((before + statuses).items()))}; slowest {slowest:.2f} s; "
            f"memory {memory / 1e6:.0f} MB, grown {grown / 1e6:.1f} MB; files {files}, then {server.files}"
        )
        assert server.get("/health")
        assert server.process.poll() is None
        assert all(statuses[expected] for expected in (200, 400, 404, 405, 422))
        assert grown < GROWTH
        assert server.files <= files + AT_ONCE
    log = (tmp_path / "stderr.log").read_text()
    assert "Traceback" not in log, log[-5000:]
