"""The client against a server that answers by a rule."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.client import Client
from bench.mix import identical, mixed, requests
from bench.pictures import BadAnswer

LAW = identical(2, 16, 8)


class Stub(ThreadingHTTPServer):
    """Paints the seed, one picture at a time; keeps what it was asked."""

    def __init__(self, seconds: float, bad_every: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seconds, self.bad_every = seconds, bad_every
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.waiting = self.most_waiting = 0

    def picture(self, body: dict[str, Any]) -> bytes:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        with self.lock:
            time.sleep(self.seconds)
            self.bodies.append(body)
            is_bad = self.bad_every and len(self.bodies) % self.bad_every == 0
        self.waiting -= 1
        draw = np.random.default_rng(body["seed"]).integers(0, 256, (body["height"], body["width"], 3))
        file = io.BytesIO()
        Image.fromarray((draw * (0 if is_bad else 1)).astype(np.uint8)).save(file, "PNG")
        images = [base64.b64encode(file.getvalue()).decode()]
        return json.dumps({"images": images, "info": json.dumps({"seed": body["seed"]})}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def do_POST(self) -> None:
        assert self.path == "/sdapi/v1/txt2img"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = self.server.picture(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def stub(seconds: float = 0.0, bad_every: int = 0) -> Iterator[tuple[Stub, Client]]:
    with Stub(seconds, bad_every) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server, Client(f"http://127.0.0.1:{server.server_port}/")
        finally:
            server.shutdown()
            thread.join()


def test_closed_loop() -> None:
    with stub(seconds=0.02) as (server, client):
        found = client.closed(LAW, clients=4, pictures=10)
    assert (found.pictures, found.errors) == (10, {})
    assert server.most_waiting == 4
    assert 14 <= len(server.bodies) <= 17  # warm-up, counted, and at the end those on their way
    assert found.p50 >= 4 * 0.02  # behind three others
    assert found.throughput <= 1 / 0.02
    assert found.work_rate == pytest.approx(found.throughput * 2 * 2 * 16 * 8 / 512**2)


def test_seeds_are_never_asked_for_twice() -> None:
    with stub() as (server, client):
        for _ in range(3):
            client.closed(mixed(5, 16, 8, sizes=True), 2, 6)
    seeds = [body["seed"] for body in server.bodies]
    assert len(set(seeds)) == len(seeds) >= 24


def test_bad_answers_are_told() -> None:
    with stub(bad_every=2) as (_, client):
        found = client.closed(LAW, 1, 6, warm=1)
    assert found.errors == {"a blank picture": 3}
    assert found.pictures == 3


def test_no_answer_is_told() -> None:
    with stub() as (_, client):
        pass
    found = client.closed(LAW, 2, 3, warm=1)
    assert found.pictures == 0
    assert sum(found.errors.values()) == 3
    assert all(reason.startswith("no answer") for reason in found.errors)


def test_open_loop_counts_from_when_a_request_was_due() -> None:
    """A server that is asked ten times as fast as it answers: latencies grow with the queue."""
    with stub(seconds=0.05) as (server, client):
        found = client.open(LAW, rate=200.0, pictures=10, warm=1)
    assert (found.pictures, len(server.bodies)) == (10, 11)
    assert found.p99 >= 8 * 0.05
    assert found.p99 > 1.5 * found.p50


def test_open_loop_does_not_hurry() -> None:
    with stub() as (_, client):
        found = client.open(LAW, rate=40.0, pictures=30, warm=1)
    assert 15 < found.throughput < 100


def test_the_same_requests_again() -> None:
    asked = list(islice(requests(LAW, 3), 5))
    with stub() as (_, client):
        alone, together = client.same(asked, 1), client.same(asked, 5)
    assert alone.keys() == together.keys() == {one.seed for one in asked}
    assert all((alone[seed] == together[seed]).all() for seed in alone)
    with stub(bad_every=5) as (_, client), pytest.raises(BadAnswer, match="blank"):
        client.same(asked, 1)


def test_work_is_that_of_the_good_pictures_of_the_latest_round() -> None:
    law, one = mixed(5, 64, 64, sizes=True), identical(2, 16, 8)
    with stub() as (server, client):
        client.closed(law, 2, 4)
        asked = {body["seed"]: body for body in server.bodies}
        sizes = [(asked[seed]["steps"], *picture.shape[:2]) for seed, picture in client.pictures.items()]
        assert client.work == pytest.approx(sum(2 * steps * h * w / 512**2 for steps, h, w in sizes))
        client.closed(one, 1, 2, 1)
        assert client.work == pytest.approx(3 * 2 * 2 * 16 * 8 / 512**2)
    with stub(bad_every=1) as (_, client):
        client.closed(one, 1, 2, 1)
        assert client.work == 0
