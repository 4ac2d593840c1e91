"""A store for pictures that takes PUT, and fails now and then."""

import hashlib
import http.server
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FAILS = 0.02
"""Of the requests: half of them are answered with 503, of the others the connection breaks."""


class PutStore:
    """What was put there.

    Attributes:
        port: where it listens.
        digests: SHA-256 of all bodies.
        failed: how often it failed on purpose.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.digests: set[str] = set()
        self.failed = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{{key}}"


@contextmanager
def put_store() -> Iterator[PutStore]:
    """A store in threads of this process."""
    draw = random.Random(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            fails = draw.random() < FAILS
            store.failed += fails
            if fails and draw.random() < 0.5:
                self.close_connection = True
                return
            if not fails:
                store.digests.add(hashlib.sha256(body).hexdigest())
            self.send_response(503 if fails else 201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store = PutStore(server.server_address[1])
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
