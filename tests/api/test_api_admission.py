"""What is refused before any work, how long requests may take, and what is told and logged of each."""

import asyncio
import base64
import io
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, TIMES, wait_until
from PIL import Image

from sdserver.api.admission import WORKING_ROUTES
from sdserver.api.config import Limits
from sdserver.api.correlation import request_id_of, trace_of
from sdserver.api.deadline import ARRIVED_SCOPE, deadline_of
from sdserver.api.door import Door
from sdserver.api.room import Room
from sdserver.errors import QueueFull
from tests.api.asgi import App
from tests.api.by_hand import HandEngine
from tests.api.conftest import Server

FIELDS = {"prompt": "cat", "steps": 4, "width": 64, "height": 64, "seed": 5}
FOUR_KEYS = ["error", "detail", "body", "errors"]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Hands = Callable[..., tuple[Server, HandEngine]]


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    """Starts servers whose engine works by hand."""
    running: list[Server] = []

    def start(**config: Any) -> tuple[Server, HandEngine]:
        engine = HandEngine()
        running.append(Server(tmp_path, engine=engine, **config))
        return running[-1], engine

    yield start
    for server in running:
        server.close()


def submitted(server: Server, **headers: str) -> str:
    answer = server.request("POST", "/v1/jobs", json={"kind": "txt2img", **FIELDS}, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def until(server: Server, job: str, state: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while (found := server.request("GET", f"/v1/jobs/{job}").json())["state"] != state:
        assert time.monotonic() < end, found
        time.sleep(0.01)
    return dict(found)


# A full queue


def full(hands: Hands) -> tuple[Server, HandEngine]:
    server, engine = hands(max_unfinished=1)
    engine.eta_seconds = 7.0
    submitted(server)
    return server, engine


@pytest.mark.parametrize("route", sorted(WORKING_ROUTES))
def test_a_full_queue_answers_before_the_body_comes(hands: Hands, route: str) -> None:
    server, engine = full(hands)
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n".encode()
    with server.raw(head) as connection:
        answer = read_answer(connection)
        assert (answer.status, answer.headers["retry-after"]) == (503, "7")
        body = json.loads(answer.body)
        text = body["error"]["message"] if route.startswith("/v1/images") else body["detail"]
        assert text == "1 requests wait already; try again in 7 s."
        # What still comes is thrown away, so that the answer is not lost to who looks at it last.
        connection.sendall(bytes(5_000_000))
        assert connection.recv(1000) == b""
    assert len(engine.jobs) == 1
    assert server.reported(2)[-1] == (route, 503)


def test_a_server_that_is_about_to_end_answers_before_the_body_comes(hands: Hands) -> None:
    door = Door()
    server, _ = hands(door=door)
    door.shut()
    with server.raw(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n") as connection:
        answer = read_answer(connection)
    assert (answer.status, json.loads(answer.body)["error"]) == (503, "NotReady")


def test_who_asks_before_sending_a_body_need_not_send_it(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = full(hands)
    head = b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    monkeypatch.setattr("sdserver.api.admission.DRAIN_SECONDS", 2 * PATIENCE)
    with server.raw(head) as connection:
        assert read_answer(connection).status == 503
        assert connection.recv(1000) == b"", "within the patience of a test's connections"


def test_a_full_queue_takes_what_was_sent_before_and_all_that_is_no_work(hands: Hands) -> None:
    server, engine = hands(max_unfinished=1)
    job = submitted(server, **{"Idempotency-Key": "k"})
    assert submitted(server, **{"Idempotency-Key": "k"}) == job
    assert server.post("txt2img", FIELDS, headers={"Idempotency-Key": "new"}).status_code == 503
    assert server.get("progress").status_code == 200
    assert server.post("interrupt", {}).status_code == 200
    engine.begin(0)
    engine.finish(0)
    until(server, job, "completed")
    submitted(server)


def test_what_comes_at_once_is_accepted_or_refused_and_nothing_fails(hands: Hands) -> None:
    """500 clients against a queue of 64."""
    server, engine = hands(max_unfinished=64)
    body = json.dumps({"kind": "txt2img", **FIELDS}).encode()
    sent = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"

    async def ask() -> tuple[int, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent.encode() + body)
        got = await reader.read()
        writer.close()
        lines = got.partition(b"\r\n\r\n")[0].decode().lower().splitlines()
        seconds = next(line for line in lines if line.startswith("x-process-time"))
        return int(lines[0].split()[1]), float(seconds.partition(":")[2])

    async def all_at_once() -> list[tuple[int, float]]:
        return await asyncio.gather(*(ask() for _ in range(500)))

    found = asyncio.run(all_at_once())
    assert Counter(status for status, _ in found) == {202: 64, 503: 436}
    refused = sorted(seconds for status, seconds in found if status == 503)
    assert refused[len(refused) // 2] <= 0.05
    assert len(engine.jobs) == 64


# Memory


def test_a_room_counts_what_is_held() -> None:
    room = Room(lambda: 3, 4, 100, lambda: 30.0)
    room.check()
    room.take(150)  # alone it may be larger
    with pytest.raises(QueueFull) as refused:
        room.take(1)
    assert (refused.value.retry_after, room.held) == (10, 150)
    room.take(10, own=150)
    room.give(160)
    with room.holding(60):
        with pytest.raises(QueueFull), room.holding(41):
            pass
        with room.holding(40):
            assert room.held == 100
    assert room.held == 0
    with pytest.raises(QueueFull):
        Room(lambda: 4, 4, 100, lambda: float("inf")).check()


def picture(side: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "tomato").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_pictures_that_wait_are_bounded_together(hands: Hands) -> None:
    """A small body may hold a large picture: what it is unpacked counts."""
    server, engine = hands(max_pending_bytes=1_000_000)
    body = FIELDS | {"init_images": [picture(512)], "width": 512, "height": 512}
    job = {"kind": "img2img", **body}
    first = server.request("POST", "/v1/jobs", json=job).json()["id"]  # 786,432 bytes of pixels
    engine.wait_for(1)
    refused = server.post("img2img", body)
    assert (refused.status_code, refused.json()["error"]) == (503, "QueueFull")
    assert "1 MB of pictures" in refused.json()["detail"]
    assert server.post("png-info", {"image": picture(64)}).status_code == 200
    engine.begin(0)
    engine.finish(0)
    until(server, first, "completed")
    again = server.request("POST", "/v1/jobs", json=job)
    assert again.status_code == 202


def test_bodies_that_come_are_bounded_together(hands: Hands) -> None:
    server, _ = hands(max_pending_bytes=1_000_000)

    def is_refused() -> bool:
        return server.post("png-info", {"image": "x" * 200_000}).status_code == 503

    head = b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"
    for seconds in TIMES:
        with server.raw(head + bytes(900_000)):
            time.sleep(0.2 + seconds)  # for what was sent to come
            if not is_refused():
                continue
            refused = server.post("txt2img", FIELDS | {"prompt": "x" * 200_000})
            break
    assert (refused.status_code, refused.json()["error"]) == (503, "QueueFull")
    wait_until(lambda: not is_refused())  # what was held is let go when its client leaves


def test_work_is_bounded_over_all_pictures_of_a_request(serve: Callable[..., Server]) -> None:
    server = serve(limits=Limits(max_work=64 * 64 * 4 * 2))
    assert server.post("txt2img", FIELDS | {"n_iter": 2}).status_code == 200
    for more in (
        {"n_iter": 3},
        {"batch_size": 2, "steps": 5},
        {"enable_hr": True, "hr_scale": 2.0, "denoising_strength": 0.5},
    ):
        refused = server.post("txt2img", FIELDS | more)
        assert (refused.status_code, "at most 32,768" in refused.json()["detail"]) == (422, True)


# Deadlines


def test_a_client_may_ask_for_less_time(hands: Hands) -> None:
    server, engine = hands(request_timeout=2 * PATIENCE)
    for seconds in TIMES:
        waiting = server.post("txt2img", FIELDS, headers={"X-Request-Timeout": str(seconds)})
        assert (waiting.status_code, list(waiting.json())) == (504, FOUR_KEYS)
        if engine.stops:
            break
    assert engine.stops[-1][1] == "drop"


def test_a_job_may_be_given_a_time_too(hands: Hands) -> None:
    server, engine = hands()
    body = {"kind": "txt2img", **FIELDS}
    for seconds in TIMES:
        answer = server.request("POST", "/v1/jobs", json=body, headers={"X-Request-Timeout": str(seconds)})
        if answer.status_code == 504:
            continue
        assert until(server, str(answer.json()["id"]), "cancelled")["stopped"] == "drop"
        if engine.stops:
            break
    assert engine.stops[-1][1] == "drop"


def test_who_joined_cannot_end_what_another_began(hands: Hands) -> None:
    server, engine = hands()
    job = submitted(server, **{"Idempotency-Key": "k"})
    for seconds in TIMES:
        joined = server.request(
            "POST",
            "/v1/jobs",
            json={"kind": "txt2img", **FIELDS},
            headers={"Idempotency-Key": "k", "X-Request-Timeout": str(seconds)},
        )
        if joined.status_code != 504:
            break
    assert joined.status_code == 202
    time.sleep(seconds + 0.2)
    assert until(server, job, "queued")["stopped"] is None
    assert engine.stops == []


def test_a_body_that_takes_the_time_leaves_none_for_work(hands: Hands) -> None:
    server, engine = hands()
    body = json.dumps(FIELDS).encode()
    more = f"X-Request-Timeout: 0.2\r\nExpect: 100-continue\r\nContent-Length: {len(body)}"
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\n{more}\r\n\r\n"
    with server.raw(head.encode()) as connection:
        assert b" 100 " in connection.recv(1000), "its head was read: the time runs"
        time.sleep(0.4)
        connection.sendall(body)
        assert read_answer(connection).status == 504
    assert engine.jobs == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(str(100 / 3), 100 / 3), ("0.570000000000000006", 0.57), ("01.50", 1.5), (" 30 ", 30)],
)
def test_a_time_may_have_as_many_digits_as_programs_write(value: str, seconds: float) -> None:
    scope = {"type": "http", "headers": [(b"x-request-timeout", value.encode())], ARRIVED_SCOPE: 1000.0}
    assert deadline_of(scope) == pytest.approx(1000 + seconds)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e3", "x", "9" * 400, "1,5", "٣"])
def test_a_time_that_makes_no_sense_is_refused(tmp_path: Path, value: str) -> None:
    headers = {"X-Request-Timeout": value.encode().decode("latin-1"), "Content-Type": "application/json"}
    answer = App(tmp_path).ask("POST", "/sdapi/v1/txt2img", headers, json.dumps(FIELDS).encode())
    assert (answer.status, "X-Request-Timeout" in json.loads(answer.body)["detail"]) == (422, True)


# Ids, times, the log


@pytest.mark.parametrize(
    ("wanted", "traceparent", "expected"),
    [
        ("abc-1", f"00-{TRACE}-00f067aa0ba902b7-01", "abc-1"),
        ("a b", f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        ("", f"01-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        ("x" * 129, "", None),
        ("a\n", "", None),
        ("", f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        ("", f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        ("", f"00-{TRACE}-{'0' * 16}-01", None),
        ("", f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        ("", "nonsense", None),
    ],
)
def test_requests_have_their_clients_names_or_their_traces(
    wanted: str, traceparent: str, expected: str | None
) -> None:
    found = request_id_of(wanted, traceparent)
    assert found == expected if expected else len(found) == 32
    assert found != request_id_of("", "")
    assert trace_of(traceparent) in (TRACE, "")


def test_answers_tell_how_long_their_work_waited(hands: Hands) -> None:
    server, engine = hands()
    with server.raw(generating(FIELDS)) as connection:
        engine.wait_for(1)
        time.sleep(0.3)
        engine.begin(0)
        time.sleep(0.3)
        engine.finish(0)
        headers = read_answer(connection).headers
    assert 0.25 < float(headers["x-queue-time"]) < float(headers["x-process-time"]) - 0.25
    assert "X-Queue-Time" not in server.get("samplers").headers


def test_every_request_is_logged_without_what_is_secret(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(users=(("ann", "canary-password"),))
    caplog.set_level(logging.INFO, "sdserver.access")
    secret = {"prompt": "canary-prompt"} | FIELDS
    server.post("txt2img?key=canary-query", secret, auth=("ann", "canary-password"))
    server.request(
        "GET",
        "/no%0d%0aX/canary-path",
        auth=("ann", "canary-password"),
        headers={"X-Request-Id": "abc", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
    )
    server.reported(2)
    made, unknown = (
        record.__dict__["fields"] for record in caplog.records if record.name == "sdserver.access"
    )
    assert (made["route"], made["status"], made["user"]) == ("/sdapi/v1/txt2img", 200, "ann")
    assert made["task"]
    assert made["bytes_sent"] > 100
    assert made["queue_seconds"] <= made["seconds"]
    assert (unknown["route"], unknown["status"], unknown["trace_id"]) == ("unmatched", 404, TRACE)
    everything = repr([record.__dict__ for record in caplog.records])
    assert "canary-path" in everything
    for canary in ("canary-password", "canary-prompt", "canary-query"):
        assert canary not in everything


def test_prompts_are_logged_if_that_is_wanted(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sdserver.prompts")
    serve(logs_prompts=True).post("txt2img", FIELDS)
    (record,) = (record for record in caplog.records if record.name == "sdserver.prompts")
    assert record.__dict__["fields"] == {"prompt": "cat", "negative_prompt": ""}


# Pages of other origins


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Origin": "http://sd.example"}, True),
        ({"Origin": "https://ally.example", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "null"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://sd.example.evil.example"}, False),
        ({"Origin": "http://sd.example:81"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://name.of.the.proxy"}, True),
    ],
)
def test_only_own_pages_and_allowed_ones_change_anything(
    tmp_path: Path, headers: dict[str, str], passes: bool
) -> None:
    app = App(tmp_path, cors_allow_origins=("https://ally.example",))
    assert (app.ask("POST", "/sdapi/v1/interrupt", headers).status == 200) is passes
    assert (app.ask("POST", "/sdapi/v1/interrupt", headers).status == 403) is not passes


def test_no_route_answers_to_trace(tmp_path: Path) -> None:
    app = App(tmp_path)
    paths = {path for _, path in app.routes()}
    assert {app.ask("TRACE", path).status for path in paths} == {405}


class Read:
    """An answer off a socket."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().splitlines()
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def read_answer(connection: socket.socket) -> Read:
    """The answer, by its length; the connection stays."""
    data = b""
    while b"\r\n\r\n" not in data or len((found := Read(data)).body) < int(found.headers["content-length"]):
        piece = connection.recv(65_536)
        assert piece, data
        data += piece
    return found


def generating(fields: dict[str, Any]) -> bytes:
    body = json.dumps(fields).encode()
    return (
        f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
