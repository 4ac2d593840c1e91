"""A loopback web server that misbehaves on demand, and files to serve."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi
import pytest
from patience import PATIENCE

from sdserver.ops.downloads.limits import Limits, Pace


def make_safetensors(size: int, seed: int = 0) -> bytes:
    """A valid file of exactly `size` bytes whose content depends on the seed."""
    header = {"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "__metadata__": {"seed": str(seed)}}
    length = 160
    data = size - 8 - length
    header["w"] = {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}
    text = json.dumps(header).encode().ljust(length)
    assert len(text) == length
    block = hashlib.sha256(str(seed).encode()).digest()
    return length.to_bytes(8, "little") + text + (block * (data // 32 + 1))[:data]


@dataclass
class File:
    """How one path is answered.

    Attributes:
        refusals: answers (status, headers) given before the first real one.
        cuts: after how many body bytes the connection is cut, one entry per real answer.
        lie: added to the Content-Length.
        pause: seconds between chunks of 4 KiB.
        first_pause: seconds before the headers.
    """

    body: bytes = b""
    etag: str = '"v1"'
    ranges: bool = True
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    lie: int = 0
    pause: float = 0.0
    first_pause: float = 0.0
    redirect: str | None = None
    content_range: str = ""
    chunked: bool = False


@dataclass(frozen=True)
class Seen:
    path: str
    headers: dict[str, str]
    status: int


class Site:
    """One server. `files` maps a path to a `File`; `seen` lists the requests."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.seen: list[Seen] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients of these tests leave whenever they like

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        file = self.files.get(path)
        headers = {name.lower(): value for name, value in handler.headers.items()}

        def start(status: int, fields: dict[str, str]) -> None:
            self.seen.append(Seen(handler.path, headers, status))
            handler.send_response(status)
            for name, value in fields.items():
                handler.send_header(name, value)
            handler.send_header("Connection", "close")
            handler.end_headers()

        if file is None:
            return start(404, {"Content-Length": "0"})
        time.sleep(file.first_pause)
        if file.refusals:
            status, fields = file.refusals.pop(0)
            return start(status, {"Content-Length": "0", **fields})
        if file.redirect is not None:
            return start(302, {"Location": file.redirect, "Content-Length": "0", **file.headers})
        return self.send_file(handler, file, headers, start)

    def send_file(
        self,
        handler: BaseHTTPRequestHandler,
        file: File,
        headers: dict[str, str],
        start: Callable[[int, dict[str, str]], None],
    ) -> None:
        begin, status, total = 0, 200, len(file.body)
        wanted = headers.get("range", "")
        fresh = headers.get("if-range", file.etag) == file.etag
        fields = {"Content-Type": file.content_type, **file.headers}
        if file.etag:
            fields["ETag"] = file.etag
        if wanted and file.ranges and fresh:
            begin, status = int(wanted.removeprefix("bytes=").partition("-")[0]), 206
            if begin >= total:
                return start(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
            fields["Content-Range"] = file.content_range or f"bytes {begin}-{total - 1}/{total}"
        body = file.body[begin:]
        if not file.chunked:
            fields["Content-Length"] = str(len(body) + file.lie)
        start(status, fields)
        if file.cuts:
            body = body[: file.cuts.pop(0)]
        for at in range(0, len(body), 4096):
            handler.wfile.write(body[at : at + 4096])
            if file.pause:
                handler.wfile.flush()
                time.sleep(file.pause)
        handler.connection.shutdown(socket.SHUT_WR)
        return None


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def other_site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="session")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reading all of certifi's for every client takes longer than the downloads."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    end = "-----END CERTIFICATE-----"
    path.write_text(certifi.contents().partition(end)[0] + end + "\n")
    return path


@pytest.fixture(autouse=True)
def plain_network(monkeypatch: pytest.MonkeyPatch, one_certificate: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(one_certificate))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def safetensors() -> Callable[..., bytes]:
    return make_safetensors


@pytest.fixture
def file_type() -> type[File]:
    return File


@dataclass
class Pauses:
    """Pauses that were asked for, none of them kept."""

    asked: list[float] = field(default_factory=list)

    def pause(self, seconds: float, _: threading.Event) -> None:
        self.asked.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def limits(pauses: Pauses) -> Limits:
    """Few tries, and no pauses between them; jitter always takes the longest pause."""
    return Limits(
        connect=PATIENCE,
        silence=PATIENCE,
        attempts=3,
        spare=0,
        report_every=0.0,
        pace=Pace(pause=pauses.pause, between=lambda _, high: high),
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"
