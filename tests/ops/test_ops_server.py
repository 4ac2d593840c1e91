"""The maintenance port, in every phase."""

import asyncio
import base64
import hashlib
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from patience import PATIENCE

from sdserver.engine.messages import Beat, Loaded, MemoryFacts
from sdserver.jobs.events import Failed
from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.ops.metrics import Metrics
from sdserver.ops.page import duration
from sdserver.ops.server import maintenance_app
from sdserver.ops.state import Node, Phase

READ_PATHS = (
    "/",
    "/live",
    "/livez",
    "/v2/health/live",
    "/ready",
    "/readyz",
    "/v2/health/ready",
    "/startup",
    "/health",
    "/healthcheck",
    "/ping",
    "/status",
    "/metrics",
    "/load",
)
PATHS_TO: dict[Phase, tuple[Phase, ...]] = {
    "starting": (),
    "downloading": ("downloading",),
    "loading": ("downloading", "loading"),
    "ready": ("loading", "ready"),
    "draining": ("loading", "ready", "draining"),
    "restarting": ("loading", "ready", "restarting"),
    "failed": ("downloading", "failed"),
}


@dataclass
class Busy:
    running: int = 1
    waiting: int = 3
    capacity: int = 4
    eta_seconds: float = 12.4


class Port:
    """The application without a network."""

    def __init__(self) -> None:
        self.now = 0.0
        self.node = Node("1.2.3", lambda: self.now)
        self.load = Busy()
        self.metrics = Metrics()
        self.app = maintenance_app(self.node, self.metrics, self.load, beat_limit=30)

    def reach(self, phase: Phase) -> None:
        for step in PATHS_TO[phase]:
            assert self.node.enter(step, f"because {step}")

    def ask(self, path: str, method: str = "GET", accept: str = "*/*") -> httpx2.Response:
        async def run() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(method, path, headers={"accept": accept})

        return asyncio.run(run())

    def json(self, path: str) -> Any:
        return self.ask(path).json()


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.mark.parametrize(
    ("phase", "live", "ready", "startup"),
    [
        ("starting", 200, 503, 503),
        ("downloading", 200, 503, 503),
        ("loading", 200, 503, 503),
        ("ready", 200, 200, 200),
        ("draining", 200, 503, 200),
        ("restarting", 200, 503, 200),
        ("failed", 503, 503, 500),
    ],
)
def test_verdicts(port: Port, phase: Phase, live: int, ready: int, startup: int) -> None:
    port.reach(phase)
    expected = dict.fromkeys(("/live", "/livez", "/v2/health/live"), live)
    expected |= dict.fromkeys(("/ready", "/readyz", "/v2/health/ready"), ready)
    expected |= dict.fromkeys(("/health", "/healthcheck", "/ping"), ready)
    expected |= {"/startup": startup, "/": 200, "/status": 200, "/metrics": 200, "/load": 200}
    assert set(expected) == set(READ_PATHS)
    for path, status in expected.items():
        for method in ("GET", "HEAD"):
            assert port.ask(path, method).status_code == status, (method, path)
    assert port.json("/live")["live"] == (live == 200)
    assert port.json("/ready")["ready"] == (ready == 200)
    assert port.json("/status")["state"] == phase
    waits = "retry-after" in port.ask("/ready").headers
    assert waits == (ready == 503)


def test_every_answer_is_fresh_and_not_sniffed(port: Port) -> None:
    for path in (*READ_PATHS, "/nothing", "/ready?max_queue=x"):
        headers = port.ask(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert len(headers.get_list("content-security-policy")) == 1


def test_startup_tells_progress_then_the_reason(port: Port) -> None:
    assert port.json("/startup") == {
        "started": False,
        "phase": "starting",
        "bytes_done": 0,
        "bytes_total": None,
        "eta_s": None,
    }
    port.node.enter("downloading")
    port.node.progressed(DownloadProgress("m.safetensors", 25, 100, 5.0, 15.2, 25))
    answer = port.ask("/startup")
    assert answer.json() == {
        "started": False,
        "phase": "downloading",
        "bytes_done": 25,
        "bytes_total": 100,
        "eta_s": 15.2,
    }
    assert answer.headers["retry-after"] == "16"
    port.node.enter("failed", "host.test has no such file (HTTP 404); check the address.")
    answer = port.ask("/startup")
    assert answer.status_code == 500
    assert answer.json()["reason"].startswith("host.test has no such file")


@pytest.mark.parametrize(
    ("query", "status"), [("", 200), ("?max_queue=3", 200), ("?max_queue=2", 503), ("?max_queue=0", 503)]
)
def test_ready_by_queue(port: Port, query: str, status: int) -> None:
    port.reach("ready")
    answer = port.ask("/ready" + query)
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == ("13" if status == 503 else None)


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "", "9" * 5000, "%C2%B2"])
def test_a_senseless_limit(port: Port, value: str) -> None:
    port.reach("ready")
    answer = port.ask(f"/ready?max_queue={value}")
    assert answer.status_code == 400
    assert "max_queue" in answer.json()["error"]


def test_a_silent_engine_is_not_live(port: Port) -> None:
    port.reach("ready")
    beat = Beat(MemoryFacts(None, None, None, None), 0, 0)
    port.node.observe(beat)
    port.now = 29
    assert port.ask("/live").status_code == 200
    port.now = 31
    answer = port.ask("/live")
    assert answer.status_code == 503
    assert answer.json()["state"] == "hung"
    port.node.observe(beat)
    assert port.ask("/live").status_code == 200
    port.now = 100
    port.node.engine_restarted("hung")
    assert port.json("/live") == {"live": True, "state": "restarting"}


def test_load(port: Port) -> None:
    answer = port.ask("/load")
    assert answer.json() == {"running": 1, "pending": 3, "capacity": 4, "eta_s": 12.4}
    assert answer.headers["x-queue-depth"] == "3"
    port.load.eta_seconds = math.inf
    assert port.json("/load")["eta_s"] is None
    port.reach("ready")
    assert port.ask("/ready?max_queue=0").headers["retry-after"] == "60"


def test_metrics(port: Port) -> None:
    answer = port.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "sdserver_requests_waiting 3.0" in answer.text


def test_a_processors_threads_are_told(port: Port) -> None:
    port.reach("ready")
    port.node.observe(Loaded("/m.safetensors", "sd1", "cpu", "float32", 1.0, threads=2))
    assert port.json("/status")["model"]["threads"] == 2
    assert "cpu (2 threads), float32" in port.ask("/", accept="text/html").text


def test_status(port: Port) -> None:
    port.reach("ready")
    port.node.observe(Loaded("/home/joe/models/m.safetensors", "sd1", "cuda:0", "float16", 3.25))
    port.node.observe(Beat(MemoryFacts(*range(1, 13)), 0, 0))
    port.node.observe(Failed("job/0", "OutOfMemory", "a red circle"))
    port.now = 7
    status = port.json("/status")
    assert status["version"] == "1.2.3"
    assert status["uptime_s"] == 7
    assert status["model"] == {
        "file": "m.safetensors",
        "family": "sd1",
        "device": "cuda:0",
        "dtype": "float16",
        "threads": None,
        "load_s": 3.25,
    }
    assert status["memory"] == {
        "free": 1,
        "total": 2,
        "allocated": 3,
        "reserved": 4,
        "active": 5,
        "inactive": 6,
        "allocated_peak": 7,
        "reserved_peak": 8,
        "active_peak": 9,
        "inactive_peak": 10,
        "retries": 11,
        "ooms": 12,
    }
    assert status["engine"] == {"restarts": 0, "beat_age_s": 7}
    assert status["errors"] == [{"error": "OutOfMemory", "id": "job/0", "age_s": 7}]
    assert [c["state"] for c in status["history"]] == ["starting", "loading", "ready"]
    text = "".join(port.ask(path, accept="text/html").text for path in READ_PATHS)
    assert "joe" not in text
    assert "circle" not in text


@pytest.mark.parametrize(
    ("accept", "query", "is_page"),
    [
        ("*/*", "", False),
        ("", "", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "", True),
        ("text/html", "?format=json", False),
        ("*/*", "?format=html", True),
        ("application/json, text/html;q=0.9", "", False),
        ("application/json;q=0.5, text/html;q=0.9", "", True),
        ("text/html;q=0", "", False),
        ("text/html;q=x", "", True),
        ("text/html;q=nan", "", False),
        (";;,,q=", "", False),
    ],
)
def test_page_or_json(port: Port, accept: str, query: str, is_page: bool) -> None:
    answer = port.ask("/" + query, accept=accept)
    kind = "text/html" if is_page else "application/json"
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["vary"] == "accept"
    if not is_page:
        assert answer.json()["state"] == "starting"


def test_the_page_escapes_everything(port: Port) -> None:
    evil = "<script>alert('1')</script>\"&"
    port.node.enter("downloading", evil)
    port.node.progressed(DownloadProgress(evil, 5_000_000, 10_000_000, 1e6, 65.0, 5))
    port.node.observe(Failed(evil, evil, evil))
    port.node.observe(Loaded(evil, evil, evil, evil, 1.0))
    answer = port.ask("/?format=html")
    assert "<script" not in answer.text
    assert "&lt;script&gt;alert(&#x27;1&#x27;)" in answer.text
    assert "<progress value=5000000 max=10000000>" in answer.text
    assert "1 min 5 s left" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_the_page_needs_nothing_that_its_policy_forbids(port: Port) -> None:
    answer = port.ask("/?format=html")
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert " style=" not in answer.text
    assert "http-equiv=refresh" in answer.text
    for link in re.findall(r'href="([^"]*)"', answer.text):
        assert port.ask("/" + link).status_code in {200, 503}


@pytest.mark.parametrize("path", ["/nothing", "/ready/", "/%2e%2e/etc/passwd", "/favicon.ico"])
def test_unknown_paths(port: Port, path: str) -> None:
    answer = port.ask(path)
    assert answer.status_code == 404
    assert answer.json() == {"error": "Not Found"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_changes_state(port: Port, method: str) -> None:
    for path in READ_PATHS:
        assert port.ask(path, method).status_code == 405, (method, path)


def test_a_bug_shows_no_traceback(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(port.node, "facts", fail)
    answer = port.ask("/status")
    assert answer.status_code == 500
    assert answer.json() == {"error": "RuntimeError"}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_it_starts_fast_and_without_heavy_libraries() -> None:
    code = (
        "import sys, sdserver.ops.server; "
        "print([m for m in ('torch', 'fastapi', 'pydantic', 'httpx2', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.strip() == "[]"
