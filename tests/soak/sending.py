"""Inputs sent to a server of `tests.soak.served`, several at a time, and what became of them."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.clocks import Clocks, Used

AT_ONCE = 16
ON_PURPOSE = {501, 503, 504, 505}
"""Not served, no room, no time left, no such HTTP."""
PATIENCE = 300.0
SILENCE = 0.5
"""Seconds without an answer, after which a request is taken to be cut short if others are answered."""
STANDSTILL = 20
"""Times so long, after which that is taken to be so even if no others are."""
SLOWEST = 10
SHOWN = 400
"""Bytes of an input that are told."""
ROUND = 5000
"""Inputs, after which a line is told."""


class Served:
    """A server's process.

    Attributes:
        costs: what it told at its end.
    """

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.pid, self.port = process.pid, port
        self.process = process
        self.costs: dict[str, Any] = {}

    @property
    def memory(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))  # noqa: PTH208

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
            return bytes(answer.read())


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """A server; what it costs is known after the block."""
    command = [sys.executable, "-m", "tests.soak.served", str(folder)]
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(path) for path in (root, root / "tests/support"))}
    errors = folder / "stderr.log"
    with (
        errors.open("w") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            cwd=root, env=env,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        assert line, errors.read_text()
        server = Served(process, int(line))
        yield server
        process.stdin.close()
        server.costs = json.loads(process.stdout.read())


@dataclass(frozen=True, slots=True)
class Sent:
    """An input, and what was used while it was on its way."""

    status: int
    used: Used
    data: bytes

    def __str__(self) -> str:
        return f"{self.status} {self.used}: {self.data[:SHOWN]!r}, {len(self.data)} bytes"


@dataclass
class Record:
    """What became of inputs."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest: list[Sent] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """How many got an answer."""
        return self.statuses.total() - self.statuses[0]

    def add(self, status: int, seconds: float, sent: Callable[[], Sent]) -> None:
        self.statuses[status] += 1
        if len(self.slowest) < SLOWEST or seconds > self.slowest[-1].used.seconds:
            self.slowest = sorted([*self.slowest, sent()], key=lambda each: -each.used.seconds)[:SLOWEST]


async def send(port: int, data: bytes, answered: Callable[[], int]) -> int:
    """The answer's status, 0 for a connection that was closed without one.

    Args:
        port: where to.
        data: the request.
        answered: how many requests were answered until now.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        got = await _first_bytes(reader, writer, answered)
        while piece := await reader.read(65_536):
            got = (got + piece)[:2000]
    except ConnectionError:
        got = b""
    finally:
        writer.transport.abort()
    found = re.findall(rb"^HTTP/1.1 ([2-5][0-9]{2}) ", got, re.MULTILINE)
    return int(found[0]) if found else 0


async def _first_bytes(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: Callable[[], int]
) -> bytes:
    """What is answered; a server that still waits for more is told that no more will come."""
    reading, before = asyncio.ensure_future(reader.read(2000)), answered()
    for _ in range(STANDSTILL):
        done, _ = await asyncio.wait([reading], timeout=SILENCE)
        if done:
            return reading.result()
        if answered() - before > 2 * AT_ONCE:
            break
    writer.write_eof()
    return await reading


async def send_all(
    server: Served, inputs: Iterator[bytes], count: int, record: Record, tell: Callable[[str], object]
) -> None:
    """So many inputs; none may be answered as a fault."""
    clocks = Clocks(server.pid)
    watching = asyncio.ensure_future(clocks.run())
    began, left, done = time.monotonic(), count, 0

    async def work() -> None:
        nonlocal left, done
        while left > 0:
            left -= 1
            data, started = next(inputs), time.monotonic()
            answered = lambda: record.answered  # noqa: E731
            try:
                status = await asyncio.wait_for(send(server.port, data, answered), PATIENCE)
            except TimeoutError:
                raise AssertionError(f"no end after {PATIENCE:g} s: {data[:3000]!r}") from None
            assert status < 500 or status in ON_PURPOSE, (status, data[:3000])
            sent = lambda: Sent(status, clocks.since(started), data)  # noqa: B023, E731
            record.add(status, time.monotonic() - started, sent)
            done += 1
            if done % ROUND == 0:
                tell(
                    f"{done} of {count} inputs after {time.monotonic() - began:.0f} s, "
                    f"slowest {record.slowest[0].used.seconds:.1f} s, memory {server.memory / 1e6:.0f} MB"
                )

    try:
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
