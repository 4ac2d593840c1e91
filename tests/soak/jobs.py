"""Requests of all kinds from clients of all kinds, to a node whose engine is killed and stopped meanwhile."""

import itertools
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests
from node import LOOPBACK, ROOT, Node
from patience import PATIENCE

from tests.api.test_api_clients import picture
from tests.soak.inputs import bad_inputs, routes_of
from tests.soak.sending import ON_PURPOSE, SILENCE

SIZE = {"width": 64, "height": 64}
ENDED = {"completed", "failed", "cancelled"}
MAX_QUEUE = 24
FLOOD = 60
"""Jobs at once, of which the queue cannot hold all."""
LEFT_ALONE = {"POST": ("/sdapi/v1/options", "/sdapi/v1/unload-checkpoint", "/sdapi/v1/reload-checkpoint")}
"""Routes that change what others' requests are answered: bad inputs leave them alone."""


class ToyNode(Node):
    """A node of `tests.soak.toy_node`.

    Args:
        data_dir: holds all its files.
        upload_url: where its saved pictures are sent.
    """

    module = "tests.soak.toy_node"

    def __init__(self, data_dir: Path, upload_url: str) -> None:
        paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests/support"))
        (data_dir / "models/VAE-approx").mkdir(parents=True, exist_ok=True)
        flags = ["--hang-limit", "5", "--max-queue", str(MAX_QUEUE), "--job-results-mb", "4"]
        super().__init__(data_dir, [*flags, "--upload-url", upload_url], {"PYTHONPATH": paths})


class Clients:
    """Sends jobs, and notes what became of them.

    Args:
        node: takes them, and is ready.
        seed: of what is drawn.

    Attributes:
        outcomes: how often what happened.
        wrong: what should not have happened.
    """

    def __init__(self, node: Node, seed: int) -> None:
        self._node = node
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._pictures: dict[tuple[str, int], list[str]] = {}
        self._numbers = itertools.count()
        self._interrupts = 0
        self._picture = picture()
        routes = [
            (method, path)
            for method, path in routes_of(node.api("GET", "/openapi.json").json())
            if path not in LEFT_ALONE.get(method, ())
        ]
        self._inputs: Iterator[bytes] = bad_inputs(seed, routes)
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def send(self, count: int, at_once: int = 8) -> None:
        """So many, of all kinds."""
        kinds: list[tuple[Callable[[int], str], int]] = [
            (self._plain, 10), (self._saved, 5), (self._img2img, 4), (self._hires, 2), (self._plot, 1),
            (self._enlarge, 2), (self._job, 4), (self._twice, 3), (self._deadline, 3), (self._leaves, 3),
            (self._resets, 2), (self._half, 1), (self._deleted, 2), (self._interrupt, 1),
            (self._interrupted, 1), (self._bad, 2), (self._odd, 6), (self._flood, 0.3),
        ]  # fmt: skip
        drawn = self._draw.choices([kind for kind, _ in kinds], [weight for _, weight in kinds], k=count)
        seeds = [self._draw.randrange(20) for _ in drawn]
        with ThreadPoolExecutor(at_once) as pool:
            for outcome in pool.map(self._safely, drawn, seeds):
                self.outcomes[outcome] += 1

    def _safely(self, kind: Callable[[int], str], seed: int) -> str:
        name = kind.__name__.lstrip("_")
        try:
            return f"{name} {kind(seed)}"
        except (requests.RequestException, OSError) as error:
            self.wrong.append(f"{name}: {error}"[:300])
            return f"{name} broke"

    def _body(self, seed: int) -> dict[str, Any]:
        made = {"prompt": "a cat", "steps": 3, "seed": seed, "batch_size": 1 + seed % 2}
        return SIZE | made | {"save_images": seed % 3 == 0}

    def _ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self._node.api(method, path, timeout=PATIENCE, **arguments)

    def _asked(self, route: str, seed: int, body: dict[str, Any], **headers: str) -> str:
        return self._asked_since(self._interrupts, route, seed, body, **headers)

    def _asked_since(self, since: int, route: str, seed: int, body: dict[str, Any], **headers: str) -> str:
        """A picture, when there had been so many interrupts."""
        answer = self._ask("POST", f"/sdapi/v1/{route}", json=body, headers=headers)
        if answer.status_code != 200:
            is_late = answer.status_code == 504 and "X-Request-Timeout" in headers
            if answer.status_code not in (410, 503) and not is_late and "PoisonJob" not in answer.text:
                self.wrong.append(f"{answer.status_code} {answer.text[:200]}")
            return str(answer.status_code)
        is_whole = since == self._interrupts
        return self._same(f"{route} {sorted(body)}", seed, answer.json(), is_whole)

    def _same(self, kind: str, seed: int, answer: dict[str, Any], is_whole: bool) -> str:
        """A seed's picture is always the same, whatever happened meanwhile; unless somebody interrupted."""
        images = answer.get("images", [answer.get("image")])
        with self._lock:
            if is_whole:
                known = self._pictures.setdefault((kind, seed), images)
            else:
                known = self._pictures.get((kind, seed))
        if known == images:
            return "right"
        if not is_whole:
            return "interrupted"
        self.wrong.append(f"{kind}, seed {seed}: other pictures")
        return "other"

    def _plain(self, seed: int) -> str:
        return self._asked("txt2img", seed, self._body(seed))

    def _saved(self, _: int) -> str:
        """A picture of its own, which is uploaded."""
        seed = 1000 + next(self._numbers)
        return self._asked("txt2img", seed, self._body(seed) | {"save_images": True})

    def _hires(self, seed: int) -> str:
        passes = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 2, "denoising_strength": 0.6}
        return self._asked("txt2img", seed, self._body(seed) | passes)

    def _plot(self, seed: int) -> str:
        plot = {"script_name": "x/y/z plot", "script_args": [4, "2,3", [], 1, "5,6", [], 0, "", []]}
        return self._asked("txt2img", seed, self._body(seed) | plot)

    def _img2img(self, seed: int) -> str:
        given = {"init_images": [self._picture], "denoising_strength": 0.7}
        return self._asked("img2img", seed, self._body(seed) | given)

    def _enlarge(self, seed: int) -> str:
        body = {"image": self._picture, "upscaling_resize": 1 + seed, "upscaler_1": "Lanczos"}
        return self._asked("extra-single-image", 2 * seed, body)

    def _deadline(self, seed: int) -> str:
        seconds = f"{0.03 * (1 + seed):.2f}"
        return self._asked("txt2img", seed, self._body(seed), **{"X-Request-Timeout": seconds})

    def _twice(self, seed: int) -> str:
        keyed = {"Idempotency-Key": f"key-{next(self._numbers)}"}
        ask = partial(self._asked_since, self._interrupts, "txt2img", seed, self._body(seed), **keyed)
        with ThreadPoolExecutor(2) as pool:
            return "+".join(sorted(pool.map(lambda _: ask(), range(2))))

    def _submit(self, body: dict[str, Any]) -> requests.Response:
        return self._ask("POST", "/v1/jobs", json={"kind": "txt2img", "request": body})

    def _job(self, seed: int) -> str:
        answer = self._submit(self._body(seed))
        return self._end_of(answer) if answer.status_code == 202 else str(answer.status_code)

    def _end_of(self, answer: requests.Response) -> str:
        path, end = f"/v1/jobs/{answer.json()['id']}", time.monotonic() + PATIENCE
        while (state := self._ask("GET", f"{path}?result=false").json().get("state")) not in ENDED:
            if time.monotonic() > end:
                self.wrong.append(f"a job stays {state}")
                return "never"
            time.sleep(0.1)
        return str(state)

    def _deleted(self, seed: int) -> str:
        answer = self._submit(self._body(seed))
        if answer.status_code == 202:
            answer = self._ask("DELETE", f"/v1/jobs/{answer.json()['id']}")
        return str(answer.status_code)

    def _interrupted(self, seed: int) -> str:
        answer = self._submit(self._body(seed) | {"steps": 150})
        if answer.status_code != 202:
            return str(answer.status_code)
        time.sleep(0.02 * seed)
        stopped = self._ask("POST", f"/v1/jobs/{answer.json()['id']}/interrupt")
        return f"{stopped.status_code} {self._end_of(answer)}"

    def _flood(self, _: int) -> str:
        """More than may wait; all that came in are taken back."""
        body = self._body(0) | {"steps": 150}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: self._submit(body), range(FLOOD)))
            accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
            list(pool.map(lambda job: self._ask("DELETE", f"/v1/jobs/{job}"), accepted))
        refused = [answer for answer in answers if answer.status_code == 503]
        if len(refused) + len(accepted) < FLOOD or not all("Retry-After" in each.headers for each in refused):
            self.wrong.append(f"a flood: {[answer.status_code for answer in answers]}")
        return "refused" if refused else "fitted"

    def _interrupt(self, _: int) -> str:
        with self._interrupting():
            return str(self._ask("POST", "/sdapi/v1/interrupt").status_code)

    @contextmanager
    def _interrupting(self, does: bool = True) -> Iterator[None]:
        """Whatever request is under way at any time within may be left with what it has."""
        with self._lock:
            self._interrupts += does
        try:
            yield
        finally:
            with self._lock:
                self._interrupts += does

    def _bad(self, seed: int) -> str:
        body = self._body(seed) | {"steps": "many"}
        return str(self._ask("POST", "/sdapi/v1/txt2img", json=body).status_code)

    def _odd(self, _: int) -> str:
        """Bytes that are hardly a request."""
        with self._lock:
            data = next(self._inputs)
        got, stops = b"", any(word in data[:200] for word in (b"/interrupt", b"/skip"))
        with (
            self._interrupting(stops),
            socket.create_connection((LOOPBACK, self._node.port), timeout=SILENCE) as client,
        ):
            try:
                client.sendall(data)
                got = client.recv(4000)
            except ConnectionError:
                return "closed"
            except TimeoutError:
                return "unanswered"
        status = int(got[9:12]) if got[9:12].isdigit() else 0
        if status >= 500 and status not in ON_PURPOSE and b"PoisonJob" not in got:
            self.wrong.append(f"{got[-300:]!r} to {data[:500]!r}")
        return str(status)

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
