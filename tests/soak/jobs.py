"""Requests of all kinds from clients of all kinds, to a node whose engine is killed and stopped meanwhile."""

import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from node import LOOPBACK, ROOT, Node

PATIENCE = 120.0
SIZE = {"width": 64, "height": 64}
ENDED = {"completed", "failed", "cancelled"}


class ToyNode(Node):
    """A node of `tests.soak.toy_node`."""

    module = "tests.soak.toy_node"

    def __init__(self, data_dir: Path) -> None:
        paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests/support"))
        (data_dir / "models/VAE-approx").mkdir(parents=True, exist_ok=True)
        flags = ["--hang-limit", "5", "--max-queue", "200"]
        super().__init__(data_dir, flags, {"PYTHONPATH": paths, "MALLOC_ARENA_MAX": "2"})


@dataclass(frozen=True)
class Footprint:
    """What the front takes."""

    memory: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) * 1024
        return cls(memory, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]))  # noqa: PTH208


class Clients:
    """Sends jobs, and notes what became of them.

    Args:
        node: takes them.
        seed: of what is drawn.
    """

    def __init__(self, node: Node, seed: int) -> None:
        self._node = node
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._pictures: dict[int, str] = {}
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def send(self, count: int, at_once: int = 8) -> None:
        """So many, of all kinds."""
        kinds: list[tuple[Callable[[int], str], int]] = [
            (self._plain, 10), (self._job, 4), (self._twice, 3), (self._leaves, 3), (self._resets, 2),
            (self._half, 1), (self._deleted, 2), (self._interrupt, 1), (self._bad, 2),
        ]  # fmt: skip
        drawn = self._draw.choices([kind for kind, _ in kinds], [weight for _, weight in kinds], k=count)
        seeds = [self._draw.randrange(20) for _ in drawn]
        with ThreadPoolExecutor(at_once) as pool:
            for outcome in pool.map(self._safely, drawn, seeds):
                self.outcomes[outcome] += 1

    def _safely(self, kind: Callable[[int], str], seed: int) -> str:
        try:
            return f"{kind.__name__.lstrip('_')} {kind(seed)}"
        except requests.RequestException as error:
            self.wrong.append(f"{kind.__name__}: {error}"[:300])
            return f"{kind.__name__} failed"

    def _body(self, seed: int) -> dict[str, Any]:
        return SIZE | {"prompt": "a cat", "steps": 3, "seed": seed, "batch_size": 1 + seed % 2}

    def _ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self._node.api(method, path, timeout=PATIENCE, **arguments)

    def _plain(self, seed: int, key: str = "") -> str:
        headers = {"Idempotency-Key": key} if key else {}
        answer = self._ask("POST", "/sdapi/v1/txt2img", json=self._body(seed), headers=headers)
        if answer.status_code != 200:
            if answer.status_code not in (410, 503) and "PoisonJob" not in answer.text:
                self.wrong.append(f"{answer.status_code} {answer.text[:200]}")
            return str(answer.status_code)
        return self._same(seed, answer.json())

    def _same(self, seed: int, answer: dict[str, Any]) -> str:
        """A seed's picture is always the same, whatever happened meanwhile; unless somebody interrupted."""
        images = answer["images"]
        if "interrupted" in str(answer.get("info", "")) or len(images) < 1 + seed % 2:
            return "interrupted"
        with self._lock:
            known = self._pictures.setdefault(seed, images[-1])
        return "right" if known == images[-1] else "other"

    def _twice(self, seed: int) -> str:
        key = f"key-{seed}-{self._draw.random()}"
        with ThreadPoolExecutor(2) as pool:
            return "+".join(sorted(pool.map(lambda _: self._plain(seed, key), range(2))))

    def _job(self, seed: int) -> str:
        answer = self._ask("POST", "/v1/jobs", json={"kind": "txt2img", "request": self._body(seed)})
        if answer.status_code != 202:
            return str(answer.status_code)
        end = time.monotonic() + PATIENCE
        while (state := self._ask("GET", f"/v1/jobs/{answer.json()['id']}").json()["state"]) not in ENDED:
            if time.monotonic() > end:
                self.wrong.append(f"a job stays {state}")
                return "never"
            time.sleep(0.1)
        return str(state)

    def _deleted(self, seed: int) -> str:
        answer = self._ask("POST", "/v1/jobs", json={"kind": "txt2img", "request": self._body(seed)})
        if answer.status_code == 202:
            answer = self._ask("DELETE", f"/v1/jobs/{answer.json()['id']}")
        return str(answer.status_code)

    def _interrupt(self, _: int) -> str:
        return str(self._ask("POST", "/sdapi/v1/interrupt").status_code)

    def _bad(self, seed: int) -> str:
        body = self._body(seed) | {"steps": "many"}
        return str(self._ask("POST", "/sdapi/v1/txt2img", json=body).status_code)

    def _leaves(self, seed: int) -> str:
        with self._node.leaving_client(steps=20):
            time.sleep(0.05 * (seed % 5))
        return "left"

    def _resets(self, seed: int) -> str:
        with self._node.leaving_client(steps=1 + seed % 3) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(0.05 * (seed % 7))
        return "reset"

    def _half(self, seed: int) -> str:
        with socket.create_connection((LOOPBACK, self._node.port), timeout=PATIENCE) as client:
            client.sendall(b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
            time.sleep(0.1 * (seed % 4))
        return "half"


def trouble(node: Node, numbers: list[signal.Signals], pause: float, over: threading.Event) -> int:
    """Send the engine one signal after the other; how many were sent."""
    sent = 0
    for number in numbers:
        if over.wait(pause):
            break
        engine = node.engine
        if engine is not None and engine.alive:
            os.kill(engine.pid, number)
            sent += 1
    return sent
