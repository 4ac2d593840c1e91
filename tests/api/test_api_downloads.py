"""Models that operators have the server fetch, and how the node is."""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from sdserver.api.downloads import MAX_REMEMBERED, ModelKind, Progress, shown_address
from sdserver.errors import DownloadError, InvalidField
from tests.api.conftest import Server

KEY = "a-key-of-the-operators"
URL = "https://user:pass@models.example/a/b.safetensors?token=secret#sha256=0"


@dataclass
class Far:
    file: str
    done: int
    total: int | None
    speed: float = 5.0
    eta: float | None = 2.0


class Fetcher:
    """Fetches nothing; the test says how it goes."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ModelKind, str]] = []
        self.go = threading.Event()
        self.failure: Exception | None = None

    def __call__(
        self,
        url: str,
        kind: ModelKind,
        sha256: str,
        progress: Callable[[Progress], None],
        cancelled: threading.Event,
    ) -> Path:
        self.asked.append((url, kind, sha256))
        progress(Far("b.safetensors", 10, 40))
        while not self.go.wait(0.01):
            if cancelled.is_set():
                raise DownloadError("The download was cancelled.")
        if self.failure:
            raise self.failure
        return Path("/models/<b>.safetensors")


Operated = tuple[Server, Fetcher]


@pytest.fixture
def operated(serve: Callable[..., Server]) -> Operated:
    fetcher = Fetcher()
    return serve(admin_key=hashlib.sha256(KEY.encode()).digest(), fetch_model=fetcher), fetcher


def ask(server: Server, method: str, path: str = "", key: str | None = KEY, **more: Any) -> Any:
    headers = {} if key is None else {"X-Admin-Key": key}
    return server.request(method, f"/v1/models/downloads{path}", headers=headers, **more)


def state_of(server: Server, *states: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while True:
        (newest, *_) = ask(server, "GET").json()["downloads"]
        if newest["state"] in states:
            found: dict[str, Any] = newest
            return found
        assert time.monotonic() < end, newest
        time.sleep(0.01)


def test_a_downloads_life(operated: Operated) -> None:
    server, fetcher = operated
    begun = ask(server, "POST", json={"url": URL, "kind": "lora", "sha256": "A" * 64})
    assert begun.status_code == 202
    assert begun.json()["address"] == "https://models.example/a/b.safetensors"
    end = time.monotonic() + PATIENCE
    while (far := ask(server, "GET").json()["downloads"][0])["bytes_done"] == 0:
        assert time.monotonic() < end
    assert far == begun.json() | {
        "file": "b.safetensors", "bytes_done": 10, "bytes_total": 40, "bytes_per_s": 5.0, "eta_s": 2.0,
    }  # fmt: skip
    assert fetcher.asked == [(URL, "lora", "A" * 64)]
    assert ask(server, "POST", json={"url": URL}).status_code == 409
    before = server.catalog.refreshed
    fetcher.go.set()
    assert state_of(server, "completed")["file"] == "<b>.safetensors"
    assert server.catalog.refreshed == before + 1
    assert "secret" not in ask(server, "GET").text
    assert ask(server, "DELETE", f"/{far['id']}").status_code == 200
    assert ask(server, "GET").json() == {"downloads": []}
    assert ask(server, "DELETE", f"/{far['id']}").status_code == 404


def test_it_can_be_cancelled_and_another_begun(operated: Operated) -> None:
    server, fetcher = operated
    first = ask(server, "POST", json={"url": URL}).json()["id"]
    cancelled = ask(server, "DELETE", f"/{first}").json()
    assert (cancelled["state"], cancelled["error"]) == ("cancelled", None)
    fetcher.go.set()
    assert ask(server, "POST", json={"url": URL}).status_code == 202
    state_of(server, "completed")


def test_a_failure_says_why_and_a_bug_says_nothing(operated: Operated) -> None:
    server, fetcher = operated
    fetcher.go.set()
    for failure, told in (
        (DownloadError("models.example answers 404; check the address."), "models.example answers 404"),
        (RuntimeError("token=secret"), "An internal error"),
    ):
        fetcher.failure = failure
        ask(server, "POST", json={"url": URL})
        assert told in state_of(server, "failed")["error"]
    assert "secret" not in ask(server, "GET").text


def test_the_last_ones_are_remembered(operated: Operated) -> None:
    server, fetcher = operated
    fetcher.go.set()
    for _ in range(MAX_REMEMBERED + 2):
        ask(server, "POST", json={"url": URL})
        state_of(server, "completed")
    assert len(ask(server, "GET").json()["downloads"]) == MAX_REMEMBERED


@pytest.mark.parametrize("key", [None, "", KEY[:-1], KEY + "x", KEY.upper(), "ä" * 16])
def test_nothing_without_the_key(operated: Operated, key: str | None) -> None:
    server, fetcher = operated
    encoded: Any = key.encode("latin-1") if key is not None else None
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/x")):
        answer = ask(server, method, path, key=encoded, json={"url": URL} if method == "POST" else None)
        assert answer.status_code == 403, answer.text
        assert KEY not in answer.text
    assert fetcher.asked == []


def test_keys_cannot_be_tried_out(operated: Operated) -> None:
    server, _ = operated
    answers = [ask(server, "GET", key=f"wrong-{n}").status_code for n in range(25)]
    assert answers == [403] * 20 + [429] * 5
    assert int(ask(server, "GET").headers["Retry-After"]) > 0


def test_without_an_operators_key_there_is_nothing(server: Server) -> None:
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/x")):
        answer = ask(server, method, path, json={"url": URL} if method == "POST" else None)
        assert answer.status_code == 404
        assert "--admin-key" in answer.json()["detail"]


BAD_ADDRESSES = [
    "", "x", "/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "ftp://h/x", "https://", "https:///x",
    "https://h:99999/x", "https://[::1/x", "https://h/a b", "https://h/\0x", "https://h/\nx", "javascript:1",
    "https://h/" + "x" * 5000, "\\\\h\\x", "data:text/plain,x", "s3://bucket/key",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_ADDRESSES)
def test_what_is_no_address(operated: Operated, url: str) -> None:
    server, fetcher = operated
    answer = ask(server, "POST", json={"url": url})
    assert answer.status_code == 422
    assert fetcher.asked == []


@pytest.mark.parametrize(
    "body", [{}, {"url": None}, {"url": URL, "kind": "../x"}, {"url": URL, "sha256": "xy"}, {"url": [URL]}]
)
def test_bodies_that_make_no_sense(operated: Operated, body: object) -> None:
    server, fetcher = operated
    answer = ask(server, "POST", json=body)
    assert answer.status_code == 422
    assert "secret" not in answer.text
    assert fetcher.asked == []


def test_addresses_are_shown_without_secrets() -> None:
    assert shown_address("hf://org/repo/file@rev?x=1") == "hf://org/repo/file@rev"
    assert shown_address("http://a:b@H:8/x?token=1") == "http://h:8/x"
    with pytest.raises(InvalidField):
        shown_address("hf:///org")


def test_the_page_knows_whether_there_is_anything_to_ask_for(operated: Operated) -> None:
    assert operated[0].request("GET", "/v1/model-files").json()["downloads"] is True


def test_checkpoints_are_found_by_their_names_all_the_same(operated: Operated) -> None:
    server, _ = operated
    assert server.request("GET", "/v1/models/tiny-sd15").json()["id"]


def test_the_end_of_the_server_ends_a_download(serve: Callable[..., Server]) -> None:
    fetcher = Fetcher()
    server = serve(admin_key=hashlib.sha256(KEY.encode()).digest(), fetch_model=fetcher)
    ask(server, "POST", json={"url": URL})
    server.closing()
    state_of(server, "cancelled")


# How the node is


def test_the_status_is_what_the_node_tells(serve: Callable[..., Server]) -> None:
    asked: list[float] = []

    def status(since: float) -> dict[str, object]:
        asked.append(since)
        return {"state": "ready"}

    server = serve(status=status)
    assert server.request("GET", "/v1/status?since=5.5").json() == {"state": "ready"}
    assert server.request("GET", "/v1/status").status_code == 200
    assert asked == [5.5, 0]
    for since in ("-1", "nan", "inf", "1e99", "x"):
        assert server.request("GET", f"/v1/status?since={since}").status_code == 422
    assert serve().request("GET", "/v1/status").status_code == 404
