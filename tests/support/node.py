"""A real server process on loopback, as an operator starts it, and what its clients see of it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from patience import PATIENCE, wait_until
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "tests" / "goldens" / "checkpoints" / "tiny-sd15.safetensors"
LOOPBACK = "127.0.0.1"
KEPT_VARIABLES = ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class Answer:
    """An answer to txt2img."""

    images: list[str]
    parameters: dict[str, Any]
    info: dict[str, Any]


@dataclass(frozen=True)
class Poll:
    """One look at a node that starts, at one thing after the other.

    Attributes:
        phase: at first.
        accepts: whether the API's port did then.
        loaded: whether a checkpoint was loaded by then.
    """

    phase: str
    accepts: bool
    loaded: bool


@dataclass(frozen=True)
class Child:
    """A process by what stays its own when its id is used again."""

    pid: int
    born: str
    command: str

    @property
    def alive(self) -> bool:
        return child(self.pid) == self


class Node:
    """A server process. `running` makes one and sees that nothing of it remains.

    Args:
        data_dir: holds models, outputs, and the process's output.
        flags: beside the ports and folders.
        environ: variables beside the usual ones.

    Attributes:
        module: what is started.
    """

    module = "sdserver"

    def __init__(
        self, data_dir: Path, flags: Sequence[str], environ: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.port, self.maintenance_port = free_ports(2)
        self._children: set[Child] = set()
        self._output = data_dir / f"stdout-{self.port}.log"
        self._errors = data_dir / f"stderr-{self.port}.log"
        command = [
            *(sys.executable, "-m", self.module, "--data-dir", str(data_dir), "--threads", "1"),
            *("--port", str(self.port), "--maintenance-port", str(self.maintenance_port), *flags),
        ]
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        env = kept | {"PYTHONPATH": str(ROOT), "HOME": str(data_dir), "OMP_NUM_THREADS": "1"}
        env |= environ or {}
        with self._output.open("w") as output, self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, cwd=data_dir, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )
        self.started_at = time.monotonic()

    @property
    def stdout(self) -> str:
        return self._output.read_text()

    @property
    def stderr(self) -> str:
        return self._errors.read_text()

    @property
    def accepts(self) -> bool:
        """Whether a TCP connection to the API's port stands."""
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=PATIENCE).close()
        except ConnectionRefusedError:
            return False
        return True

    @property
    def engine(self) -> Child | None:
        """The engine process, None while there is none."""
        found = [process for process in children(self.process.pid) if "spawn_main" in process.command]
        self._children |= set(children(self.process.pid))
        return found[0] if found else None

    def api(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """A request to the API's port."""
        return request(method, f"http://{LOOPBACK}:{self.port}{path}", **arguments)

    def ops(self, path: str, method: str = "GET", **arguments: Any) -> requests.Response:
        """A request to the maintenance port."""
        return request(method, f"http://{LOOPBACK}:{self.maintenance_port}{path}", **arguments)

    def txt2img(self, **fields: Any) -> Answer:
        """Pictures of 64x64 pixels in a few steps, unless the fields say otherwise."""
        body = {"prompt": "a cat on the moon", "steps": 4, "width": 64, "height": 64, "seed": 1234} | fields
        response = self.api("POST", "/sdapi/v1/txt2img", json=body)
        assert response.status_code == 200, response.text
        answer = response.json()
        return Answer(answer["images"], answer["parameters"], json.loads(answer["info"]))

    def leaving_client(self, steps: int = 150, side: int = 64) -> socket.socket:
        """A connection that has asked for a picture; close it to leave before it is done."""
        body = json.dumps({"steps": steps, "width": side, "height": side}).encode()
        client = socket.create_connection((LOOPBACK, self.port))
        head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        return client

    def status(self) -> dict[str, Any]:
        """What `/status` says."""
        status: dict[str, Any] = self.ops("/status").json()
        return status

    def metric(self, name: str, **labels: str) -> float:
        """A sample of `/metrics`; 0 if there is none yet."""
        for family in text_string_to_metric_families(self.ops("/metrics").text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    def wait_listening(self) -> float:
        """Wait for the maintenance port; seconds from the process's start to its first answer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.ops("/live")
            except requests.ConnectionError:
                assert self.process.poll() is None, self.stderr
                assert time.monotonic() < deadline, "it does not listen"
                time.sleep(0.01)
            else:
                return time.monotonic() - self.started_at

    def wait_ready(self) -> list[Poll]:
        """Wait until the node takes requests; what it showed meanwhile."""
        self.wait_listening()
        polls: list[Poll] = []
        deadline = time.monotonic() + PATIENCE
        while not polls or polls[-1].phase != "ready":
            polls.append(Poll(self.status()["state"], self.accepts, bool(self.status()["model"])))
            assert polls[-1].phase != "failed", self.status()["reason"]
            assert time.monotonic() < deadline, "it does not become ready"
            time.sleep(0.05)
        assert self.engine
        return polls

    def wait_running(self, images: int = 1) -> None:
        """Wait until the engine works on so many requests."""
        wait_until(lambda: self.ops("/load").json()["running"] >= images)

    def wait_stepped(self) -> None:
        """Wait until the request that runs has a step behind it: stopped from now on, it has a picture."""
        path = "/sdapi/v1/progress?skip_current_image=true"
        wait_until(lambda: self.api("GET", path).json()["state"]["sampling_step"] >= 1)

    def wait_idle(self) -> None:
        """Wait until no request is unfinished."""
        wait_until(lambda: (load := self.ops("/load").json())["running"] + load["pending"] == 0)

    def signal(self, number: signal.Signals) -> None:
        """Send the front process a signal."""
        self._children |= set(children(self.process.pid))
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for the process's end; its exit code."""
        deadline = time.monotonic() + 2 * PATIENCE
        while self.process.poll() is None:
            self._children |= set(children(self.process.pid))
            assert time.monotonic() < deadline, "it goes on"
            time.sleep(0.05)
        return self.process.returncode

    def orphans(self) -> list[Child]:
        """Children that were seen and outlive the front process by more than a while."""
        deadline = time.monotonic() + PATIENCE
        while any(process.alive for process in self._children) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [process for process in self._children if process.alive]


@contextmanager
def running(data_dir: Path, *flags: str, environ: Mapping[str, str] | None = None) -> Iterator[Node]:
    """A node, ended with the block if it has not ended itself."""
    node = Node(data_dir, flags, environ)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.signal(signal.SIGTERM)
            try:
                node.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()
    assert node.orphans() == []


def request(method: str, url: str, **arguments: Any) -> requests.Response:
    """A request over a connection of its own, past any proxy."""
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, **({"timeout": PATIENCE} | arguments))


def together(work: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """The results of all calls, made at once."""
    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(call) for call in work]]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, and that no outgoing connection is given before they are used."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(first_outgoing // 2, first_outgoing)
        with socket.socket() as one, suppress(OSError):
            one.bind((LOOPBACK, port))
            found.add(port)
    return list(found)


def child(pid: int) -> Child | None:
    """The process of that id, None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[0] in "ZX" else Child(pid, stat[19], command)


def children(parent: int) -> list[Child]:
    """The living children of a process."""
    found: list[Child] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(stat[1]) == parent and (process := child(int(folder.name))):
            found.append(process)
    return found
