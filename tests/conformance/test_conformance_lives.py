"""Two lives of a node that downloads its checkpoint; each is ended by signals in the middle of a job."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import pytest
import requests
from node import CHECKPOINT, LOOPBACK, Answer, Node, running, wait_until

from tests.conformance.conftest import Tell, make_data_dir

SECONDS = 2.0  # that a download takes at least
BUSY = 20.0  # within which even a busy machine ends a node that waits for nothing; the figures are told


class Handler(SimpleHTTPRequestHandler):
    """Serves one folder, slowly, and notes what was asked for."""

    def __init__(self, *arguments: Any, directory: Path, seen: list[str]) -> None:
        self._seen = seen
        super().__init__(*arguments, directory=str(directory))

    def do_GET(self) -> None:
        self._seen.append(self.path)
        super().do_GET()

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]  # typeshed asks for more
        """Send the file in twenty pieces."""
        piece = CHECKPOINT.stat().st_size // 20 + 1
        while chunk := source.read(piece):
            outputfile.write(chunk)
            time.sleep(SECONDS / 20)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class FileServer:
    """Where the checkpoint is downloaded from."""

    url: str
    seen: list[str]


@pytest.fixture(scope="module")
def files() -> Iterator[FileServer]:
    seen: list[str] = []
    server = ThreadingHTTPServer((LOOPBACK, 0), partial(Handler, directory=CHECKPOINT.parent, seen=seen))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield FileServer(f"http://{LOOPBACK}:{server.server_port}", seen)
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Life:
    """What was seen of a node until its end.

    Attributes:
        shown: what `/startup` said while the checkpoint was fetched.
        asked: paths that the file server was asked for.
        ended_after: seconds from the last signal.
        refusal, queue, rejected: the answer to a request that found the queue full, what `/load` and
            `/metrics` said of it.
    """

    shown: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answer: Answer | None = None
    draining: dict[str, Any] = field(default_factory=dict)
    exit_code: int = -1
    ended_after: float = 0.0
    stdout: str = ""
    models: list[str] = field(default_factory=list)
    refusal: requests.Response | None = None
    queue: dict[str, Any] = field(default_factory=dict)
    rejected: float = 0.0


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lives")


@pytest.fixture(scope="module")
def first(data_dir: Path, files: FileServer) -> Life:
    """Downloads; a signal in the middle of a job."""
    life = Life()
    with running(data_dir, "--model_url", f"{files.url}/{CHECKPOINT.name}") as node:
        node.wait_listening()
        while not node.accepts:
            life.shown.append(node.ops("/startup").json())
            time.sleep(0.05)
        node.wait_ready()
        life.models = [model["model_name"] for model in node.api("GET", "/sdapi/v1/sd-models").json()]
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(partial(node.txt2img, steps=60, width=192, height=192))
            interrupt_in_the_middle(node)
            wait_until(lambda: not node.accepts)
            ready = node.ops("/ready")
            life.draining = {"state": node.status()["state"], "ready": ready.status_code}
            life.answer = future.result()
            answered = time.monotonic()
        life.exit_code = node.exit_code()
        life.ended_after = time.monotonic() - answered
        life.stdout = node.stdout
    life.asked = list(files.seen)
    files.seen.clear()
    return life


@pytest.fixture(scope="module")
def second(data_dir: Path, files: FileServer, first: Life) -> Life:
    """Starts again in the same folder, with a short queue; two signals in the middle of a job."""
    life = Life()
    with running(data_dir, "--model_url", f"{files.url}/{CHECKPOINT.name}", "--max-queue", "2") as node:
        node.wait_ready()
        with node.leaving_client(side=192), node.leaving_client(side=192):
            node.wait_running(2)
            life.refusal = node.api("POST", "/sdapi/v1/txt2img", json={})
            life.queue = node.ops("/load").json()
        node.wait_idle()
        life.rejected = node.metric("sdserver_rejected_total", reason="queue_full")
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(partial(node.txt2img, steps=150, width=256, height=256))
            interrupt_in_the_middle(node)
            node.signal(signal.SIGTERM)
            signalled = time.monotonic()
            life.exit_code = node.exit_code()
            life.ended_after = time.monotonic() - signalled
            with pytest.raises(requests.ConnectionError):
                future.result()
        life.stdout = node.stdout
    life.asked = list(files.seen)
    return life


def interrupt_in_the_middle(node: Node) -> None:
    wait_until(lambda: node.metric("sdserver_steps_total") >= 3)
    node.signal(signal.SIGTERM)
    wait_until(lambda: node.status()["state"] == "draining")


def test_a_download_shows_its_progress(first: Life) -> None:
    size = CHECKPOINT.stat().st_size
    downloading = [shown for shown in first.shown if shown["phase"] == "downloading" and shown["bytes_done"]]
    done = [shown["bytes_done"] for shown in downloading]
    assert len(set(done)) >= 3
    assert done == sorted(done)
    assert {shown["bytes_total"] for shown in downloading} == {size}
    assert "Downloading tiny-sd15.safetensors: 100 %, 22 of 22 MB" in first.stdout
    assert first.asked == [f"/{CHECKPOINT.name}"]
    assert first.models == [CHECKPOINT.stem]


def test_a_signal_lets_accepted_requests_finish(first: Life, tell: Tell) -> None:
    tell(f"after the last answer a draining node ended in {first.ended_after:.2f} s")
    assert first.draining == {"state": "draining", "ready": 503}
    assert first.answer is not None
    assert len(first.answer.images) == 1
    assert first.exit_code == 0
    assert first.ended_after < BUSY


def test_the_next_start_fetches_nothing(second: Life) -> None:
    assert second.asked == []
    assert "Downloading" not in second.stdout
    assert "\nModel loaded in " in second.stdout


def test_a_full_queue_refuses(second: Life) -> None:
    assert second.refusal is not None
    assert second.refusal.status_code == 503
    assert 1 <= int(second.refusal.headers["Retry-After"]) <= 60
    assert second.refusal.json()["error"] == "QueueFull"
    assert second.queue["running"] == 2
    assert second.queue["pending"] == 0
    assert second.rejected == 1


def test_a_second_signal_ends_at_once(second: Life, tell: Tell) -> None:
    tell(f"a second signal ended the node in {second.ended_after:.2f} s")
    assert second.exit_code == 1
    assert second.ended_after < BUSY, "its job takes longer"


def test_a_signal_during_the_start_ends_it(tmp_path: Path, tell: Tell) -> None:
    with running(make_data_dir(tmp_path)) as node:
        node.wait_listening()
        node.signal(signal.SIGTERM)
        signalled = time.monotonic()
        assert node.exit_code() == 0
        seconds = time.monotonic() - signalled
    tell(f"a starting node ended {seconds:.2f} s after its signal")
    assert seconds < BUSY
    assert "Model loaded" not in node.stdout
