"""Stores for uploads: one of our own that does as it is told, and real ones."""

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdserver.ops.uploads.failure import UploadFailure


class ScriptedStore:
    """Holds objects in memory; `troubles` are raised, one per try, before anything is taken.

    Attributes:
        tries: keys, one per try.
        held: while set, tries do not end.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.troubles: list[Exception] = []
        self.tries: list[str] = []
        self.at_once = self.most_at_once = 0
        self.held: asyncio.Event | None = None
        self.refuses: Callable[[bytes], bool] = lambda _data: False
        self.is_closed = False

    async def put(self, key: str, data: bytes, media_type: str) -> None:
        self.tries.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if self.held is not None:
                await self.held.wait()
            if self.troubles:
                raise self.troubles.pop(0)
            if self.refuses(data):
                raise UploadFailure("refused", "413")
            self.objects[key] = (data, media_type)
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore()


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class PutSite:
    """A web server that takes PUT; `answers` are given first, one per request, then 201."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def put_site() -> Iterator[PutSite]:
    site = PutSite()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            site.seen.append(Seen(self.path, headers, body))
            status, fields, answer = site.answers.pop(0) if site.answers else (201, {}, b"")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(answer)), **fields}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[bytes], Path]:
    """Makes a file as the saver leaves it."""
    count = 0

    def make(data: bytes) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / "outputs" / f"{count:05}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return make
