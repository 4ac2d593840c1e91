"""The job API: a job's life, its events, its webhook, and what is kept of it."""

import base64
import http.server
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from patience import PATIENCE, TIMES
from PIL import Image

from sdserver.api.extras import run
from sdserver.api.jobs import webhook
from sdserver.api.outbound import Outbound
from sdserver.api.routes import jobs as job_routes
from sdserver.catalog.networks import NetworkFolders
from sdserver.images.codec import encode
from sdserver.jobs.events import Picture
from tests.api.by_hand import HandEngine
from tests.api.conftest import Server

FIELDS = {"prompt": "cat", "steps": 4, "width": 64, "height": 64, "seed": 5}
JOB = {"kind": "txt2img", **FIELDS}
RED = Picture(8, 8, b"\xff\0\0" * 64)
KEYS = [
    *("id", "kind", "state", "stopped", "queue_position", "progress", "eta_seconds", "images"),
    *("images_done", "pictures", "created", "started", "ended", "error", "result_kept", "result_expired"),
]
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


def submit(server: Server, *, key: str = "", **fields: Any) -> requests.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return server.request("POST", "/v1/jobs", json=JOB | fields, headers=headers)


def submitted(server: Server, **fields: Any) -> str:
    answer = submit(server, **fields)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return str(answer.json()["id"])


def look(server: Server, job: str, query: str = "") -> dict[str, Any]:
    answer = server.request("GET", f"/v1/jobs/{job}{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def until(server: Server, job: str, *states: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while (found := look(server, job))["state"] not in states:
        assert time.monotonic() < end, found
        time.sleep(0.01)
    return found


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_a_jobs_life(hands: Hands) -> None:
    server, engine = hands()
    first, second = submitted(server, batch_size=2), submitted(server)
    job = look(server, second)
    assert list(job) == [*KEYS, "result"]
    assert (job["state"], job["queue_position"], job["progress"], job["eta_seconds"]) == (
        "queued",
        2,
        0,
        None,
    )
    assert (job["started"], job["ended"], job["result"], job["error"]) == (None, None, None, None)
    engine.begin(0)
    engine.step(0, 2, 4)
    job = look(server, first)
    assert (job["state"], job["queue_position"], job["progress"]) == ("running", 0, 0.25)
    assert (job["images"], job["images_done"]) == (2, 0)
    assert job["eta_seconds"] >= 0
    assert look(server, second)["queue_position"] == 1
    for number in (0, 1):
        engine.finish(0, number)
    job = until(server, first, "completed")
    assert (job["progress"], job["eta_seconds"], job["images_done"]) == (1, 0, 2)
    times = [datetime.fromisoformat(job[name]) for name in ("created", "started", "ended")]
    assert times == sorted(times)
    assert all(job[name].endswith("Z") for name in ("created", "started", "ended"))
    result = job["result"]
    assert list(result) == ["images", "parameters", "info"]
    assert json.loads(result["info"])["all_seeds"] == [5, 6]
    assert [opened(image).size for image in result["images"]] == [(64, 64)] * 2
    assert "result" not in look(server, first, "?result=false")
    assert look(server, first, "?images=false") == job | {
        "result": {name: value for name, value in result.items() if name != "images"}
    }
    assert job["pictures"] == len(result["images"])


def test_the_result_is_what_the_route_answers(serve: Callable[..., Server]) -> None:
    server = serve()
    job = until(server, submitted(server), "completed")
    answer = server.post("txt2img", FIELDS).json()
    info = [json.loads(each["info"]) for each in (job["result"], answer)]
    for each in info:
        del each["job_timestamp"]
    info[0]["all_subseeds"], info[0]["subseed"] = info[1]["all_subseeds"], info[1]["subseed"]
    assert info[0] == info[1]
    assert job["result"]["parameters"] == answer["parameters"]
    assert job["result"]["images"] == answer["images"]


def test_bodies_inside_and_beside(hands: Hands) -> None:
    server, engine = hands()
    inside = {"kind": "txt2img", "request": FIELDS | {"seed": 9, "force_task_id": "inner"}, "seed": 3}
    answer = server.request("POST", "/v1/jobs", json=inside)
    assert (answer.status_code, answer.json()["id"]) == (202, "inner")
    submitted(server)
    assert [job.noise.seed for job in engine.jobs] == [9, 5]


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_kinds(serve: Callable[..., Server]) -> None:
    server = serve()
    extras = {"upscaler_1": "Lanczos", "upscaling_resize": 2}
    bodies: list[dict[str, Any]] = [
        {**JOB, "kind": "img2img", "init_images": [picture()]},
        {"kind": "extra-single-image", "image": picture(), **extras},
        {"kind": "extras", "image": picture(), **extras},
        {"kind": "extra-batch-images", "imageList": [{"data": picture(), "name": "a"}] * 2, **extras},
        {"kind": "extras", "imageList": [{"data": picture(), "name": "a"}], **extras},
    ]
    results = []
    for body in bodies:
        answer = server.request("POST", "/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        results.append(until(server, answer.json()["id"], "completed", "failed"))
    assert [job["kind"] for job in results] == ["img2img", *["extras"] * 4]
    assert [job["error"] for job in results] == [None] * 5
    assert [list(job["result"]) for job in results[1:]] == [
        *[["html_info", "image"]] * 2,
        *[["html_info", "images"]] * 2,
    ]
    single, batch = (results[place]["id"] for place in (1, 3))
    for job, number in ((single, 0), (batch, 1)):
        file = server.request("GET", f"/v1/jobs/{job}/images/{number}")
        assert Image.open(io.BytesIO(file.content)).size == (128, 128)


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"kind": None}, 422, "field required"),
        ({"kind": "video"}, 422, "'kind' must be one of txt2img"),
        ({"request": 5}, 422, "not a valid dict"),
        ({"request": []}, 422, "not a valid dict"),
        ({"steps": "x"}, 422, "value is not a valid integer"),
        ({"steps": 10**6}, 422, "'steps' must be from"),
        ({"sampler_name": "nope"}, 400, "Sampler not found"),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, 404, "There is no checkpoint"),
        ({"kind": "img2img"}, 404, "Init image not found"),
        ({"kind": "img2img", "init_images": ["x"]}, 422, "Invalid encoded image"),
        ({"force_task_id": "\n"}, 422, "printable ASCII"),
        ({"webhook": "http://example.org"}, 422, "--webhooks"),
        ({"request": json.loads('{"a":' + "[" * 60 + "]" * 60 + "}")}, 422, "nested too deeply"),
    ],
)
def test_requests_that_are_no_use_are_told_at_once(
    server: Server, fields: dict[str, Any], status: int, sentence: str
) -> None:
    answer = submit(server, **fields)
    assert answer.status_code == status, answer.text
    assert sentence in answer.text
    assert len(answer.text) < 600


def test_a_full_queue_refuses_and_large_bodies_are_refused(hands: Hands) -> None:
    server, engine = hands(max_body_bytes=10_000)
    engine.full = True
    answer = submit(server)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.headers["x-task-id"]
    (job,) = server.request("GET", "/v1/jobs").json()["jobs"]
    assert (job["state"], job["error"]["type"], job["error"]["status"]) == ("failed", "QueueFull", 503)
    assert submit(server, prompt="x" * 20_000).status_code == 413


def test_a_job_that_fails_later(hands: Hands) -> None:
    server, engine = hands()
    job_id = submitted(server)
    engine.begin(0)
    engine.fail(0, "OutOfMemory")
    job = until(server, job_id, "failed")
    assert job["error"] == {"type": "OutOfMemory", "message": "The device is broken.", "status": 500}
    assert (job["result"], job["result_expired"], job["eta_seconds"]) == (None, False, None)
    assert server.request("GET", f"/v1/jobs/{job_id}/images/0").status_code == 404


@pytest.mark.parametrize("name", ["task(abc)", "a/b", "a/events", "a/images/0", "50%", "a b?c#d", "%2F"])
def test_ids_of_clients_own_in_paths(serve: Callable[..., Server], name: str) -> None:
    server = serve()
    answer = submit(server, force_task_id=name)
    assert (answer.json()["id"], answer.headers["x-task-id"]) == (name, name)
    place = answer.headers["location"]
    job_id = place.removeprefix("/v1/jobs/")
    assert until(server, job_id, "completed")["id"] == name
    assert server.request("GET", f"{place}/images/0").headers["content-type"] == "image/png"
    assert '"state":"completed"' in server.request("GET", f"{place}/events").text
    assert server.request("POST", f"{place}/interrupt").json()["id"] == name
    assert server.request("DELETE", place).status_code == 200
    assert server.request("GET", place).status_code == 404


def test_ids_below_a_prefix(serve: Callable[..., Server]) -> None:
    server = serve(subpath="/sd")
    answer = server.request("POST", "/sd/v1/jobs", json=JOB | {"force_task_id": "a/b"})
    assert answer.headers["location"] == "/sd/v1/jobs/a%2Fb"
    for path in ("/sd/v1/jobs/a%2Fb", "/v1/jobs/a%2Fb"):
        assert server.request("GET", path).json()["id"] == "a/b"


def test_unknown_ids(server: Server) -> None:
    for method, path in (
        ("GET", "nope"),
        ("GET", "nope/events"),
        ("GET", "nope/images/0"),
        ("DELETE", "nope"),
        ("POST", "nope/interrupt"),
        ("POST", "nope/skip"),
    ):
        answer = server.request(method, f"/v1/jobs/{path}")
        assert answer.status_code == 404
        assert list(answer.json()) == ["error", "detail", "body", "errors"]
        assert "no such job" in answer.json()["detail"]


def test_an_id_that_is_taken(hands: Hands) -> None:
    server, engine = hands()
    submitted(server, force_task_id="a")
    assert submit(server, force_task_id="a").status_code == 409
    assert server.post("txt2img", FIELDS | {"force_task_id": "a"}).status_code == 409
    engine.finish(0)
    until(server, "a", "completed")
    assert submit(server, force_task_id="a").status_code == 202


def test_pictures_as_files(serve: Callable[..., Server]) -> None:
    server = serve()
    job = submitted(server, batch_size=2, override_settings={"samples_format": "webp"})
    until(server, job, "completed")
    answers = [server.request("GET", f"/v1/jobs/{job}/images/{number}") for number in (0, 1, 2, -1)]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 404]
    assert answers[1].headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answers[1].content)).size == (64, 64)
    assert "2 pictures" in answers[2].json()["detail"]
    assert server.request("GET", f"/v1/jobs/{job}/images/x").status_code == 422


def test_pictures_of_a_job_that_has_not_ended(hands: Hands) -> None:
    server, _ = hands()
    job = submitted(server)
    assert server.request("GET", f"/v1/jobs/{job}/images/0").status_code == 409


def test_results_that_are_gone(serve: Callable[..., Server]) -> None:
    server = serve(job_results_seconds=0)
    job = submitted(server)
    time.sleep(0.01)
    found = until(server, job, "completed")
    assert (found["result"], found["result_kept"], found["result_expired"]) == (None, True, True)
    assert server.request("GET", f"/v1/jobs/{job}/images/0").status_code == 410


def test_results_are_weighed_with_what_they_repeat(serve: Callable[..., Server]) -> None:
    server = serve(job_results_bytes=1_000_000)
    jobs = [submitted(server, script_args=["x" * 700_000]) for _ in range(2)]
    ended = [until(server, job, "completed") for job in jobs]
    assert ended[1]["result"] is not None
    assert look(server, jobs[0])["result_expired"] is True


def test_too_many_unfinished_requests_are_refused(hands: Hands) -> None:
    server, engine = hands(max_unfinished=2)
    engine.eta_seconds = 20.0
    first = submitted(server)
    submitted(server)
    refused = submit(server)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
    engine.begin(0)
    engine.finish(0)
    until(server, first, "completed")
    submitted(server)


def test_a_request_that_takes_too_long_is_dropped_whatever_its_key(hands: Hands) -> None:
    for seconds in TIMES:
        server, engine = hands(request_timeout=seconds)
        answer = server.post("txt2img", FIELDS, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 504
        if engine.stops:
            break
    (job,) = server.request("GET", "/v1/jobs").json()["jobs"]
    assert until(server, job["id"], "cancelled")["stopped"] == "drop"
    assert engine.stops


def test_requests_of_other_routes_are_listed_without_their_results(serve: Callable[..., Server]) -> None:
    server = serve()
    answer = server.post("txt2img", FIELDS)
    task = answer.headers["x-task-id"]
    job = look(server, task)
    assert (job["state"], job["result"], job["result_kept"], job["result_expired"]) == (
        "completed",
        None,
        False,
        False,
    )
    assert server.request("GET", f"/v1/jobs/{task}/images/0").status_code == 410
    bad = server.post("txt2img", FIELDS | {"steps": 0})
    assert (bad.status_code, look(server, bad.headers["x-task-id"])["state"]) == (422, "failed")


def test_quirks_are_not_for_these_routes(serve: Callable[..., Server]) -> None:
    server = serve(a1111_quirks=True)
    assert submit(server, steps=0).status_code == 422
    assert server.request("GET", "/v1/jobs?limit=0").status_code == 422
    assert server.post("txt2img", FIELDS | {"steps": 0}).status_code == 500


@pytest.mark.parametrize("kind", ["extra-single-image", "extras"])
def test_extras_are_shown_and_stopped_like_others(hands: Hands, tmp_path: Path, kind: str) -> None:
    (tmp_path / "net.pth").write_bytes(b"x")
    server, engine = hands(folders=NetworkFolders(esrgan=(tmp_path,)))
    body = {"kind": kind, "image": picture(), "upscaler_1": "net", "upscaling_resize": 2}
    job = server.request("POST", "/v1/jobs", json=body).json()["id"]
    engine.begin(0)
    assert server.get("progress").json()["state"]["job"] == "extras"
    assert look(server, job)["images"] == 1
    server.post("interrupt", None)
    done = until(server, job, "completed")
    assert (done["stopped"], done["kind"]) == ("interrupt", "extras")
    assert len(done["result"]["image"]) > 0


def test_extras_without_a_network_are_jobs_that_run(hands: Hands) -> None:
    server, engine = hands()
    body = {"kind": "extras", "image": picture(), "upscaler_1": "Lanczos", "upscaling_resize": 2}
    job = until(server, server.request("POST", "/v1/jobs", json=body).json()["id"], "completed")
    assert job["created"] <= job["started"] <= job["ended"]
    assert engine.jobs == []


def test_interrupting_extras_without_a_network_keeps_what_is_made(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = hands()
    usual = run._result

    def result(*arguments: Any) -> Any:
        server.request("POST", "/v1/jobs/a/interrupt")
        return usual(*arguments)

    monkeypatch.setattr(run, "_result", result)
    pictures = [{"data": picture(), "name": str(number)} for number in range(3)]
    body = {"kind": "extras", "imageList": pictures, "upscaler_1": "Lanczos", "force_task_id": "a"}
    assert server.request("POST", "/v1/jobs", json=body).status_code == 202
    done = until(server, "a", "completed")
    assert (done["stopped"], len(done["result"]["images"])) == ("interrupt", 1)


class TestStopping:
    """Cancel, interrupt and skip in each state."""

    def test_cancel_one_that_waits_and_one_that_runs(self, hands: Hands) -> None:
        server, engine = hands()
        waiting, running = submitted(server), submitted(server)
        engine.begin(1)
        for number, job in enumerate((waiting, running)):
            answer = server.request("DELETE", f"/v1/jobs/{job}")
            assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
            assert answer.json()["stopped"] == "drop"
            assert engine.stops[number][1] == "drop"
            assert look(server, job)["result"] is None

    def test_delete_again_forgets(self, hands: Hands) -> None:
        server, engine = hands()
        job, other = submitted(server), submitted(server)
        engine.finish(0)
        until(server, job, "completed")
        answer = server.request("DELETE", f"/v1/jobs/{job}")
        assert (answer.status_code, answer.json()["state"]) == (200, "completed")
        for path in (job, f"{job}/images/0"):
            assert server.request("GET", f"/v1/jobs/{path}").status_code == 404
        assert [each["id"] for each in server.request("GET", "/v1/jobs").json()["jobs"]] == [other]

    def test_interrupt_keeps_what_there_is(self, hands: Hands) -> None:
        server, engine = hands()
        job = submitted(server, batch_size=2)
        engine.begin(0)
        answer = server.request("POST", f"/v1/jobs/{job}/interrupt")
        assert (answer.status_code, answer.json()["stopped"]) == (200, "interrupt")
        done = until(server, job, "completed")
        assert len(done["result"]["images"]) == 1
        assert server.request("POST", f"/v1/jobs/{job}/interrupt").json()["state"] == "completed"

    def test_skip(self, hands: Hands) -> None:
        server, engine = hands()
        job = submitted(server, n_iter=2)
        engine.begin(0)
        assert server.request("POST", f"/v1/jobs/{job}/skip").json()["stopped"] == "skip"
        assert engine.stops == [((engine.jobs[0].id,), "skip")]
        engine.finish(0, 1)
        assert len(until(server, job, "completed")["result"]["images"]) == 2

    def test_others_are_left_alone(self, hands: Hands) -> None:
        server, engine = hands()
        first, second = submitted(server), submitted(server)
        engine.begin(0)
        engine.begin(1)
        server.request("POST", f"/v1/jobs/{second}/interrupt")
        until(server, second, "completed")
        assert look(server, first)["state"] == "running"

    def test_a_client_that_waits_is_told_that_its_request_was_cancelled(self, hands: Hands) -> None:
        server, engine = hands()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.post, "txt2img", FIELDS | {"force_task_id": "a"})
            engine.wait_for(1)
            assert server.request("DELETE", "/v1/jobs/a").json()["state"] == "cancelled"
            answer = waiting.result()
        assert (answer.status_code, answer.headers["x-task-id"]) == (410, "a")


class TestList:
    """What GET /v1/jobs lists."""

    def test_filters(self, hands: Hands) -> None:
        server, engine = hands()
        ids = [submitted(server) for _ in range(3)]
        ids.append(submitted(server, kind="img2img", init_images=[picture()]))
        engine.begin(1)
        engine.finish(2)
        until(server, ids[2], "completed")

        def listed(**query: Any) -> tuple[list[str], bool]:
            answer = server.request("GET", "/v1/jobs", params=query).json()
            assert list(answer) == ["jobs", "has_more"]
            assert all(list(job) == KEYS for job in answer["jobs"])
            return [job["id"] for job in answer["jobs"]], answer["has_more"]

        newest = ids[::-1]
        assert listed() == (newest, False)
        assert listed(limit=2) == (newest[:2], True)
        assert listed(limit=2, after=newest[1]) == (newest[2:], False)
        assert listed(after=newest[3]) == ([], False)
        assert listed(state="queued") == ([ids[3], ids[0]], False)
        assert listed(state="running") == ([ids[1]], False)
        assert listed(state="completed", kind="img2img") == ([], False)
        assert listed(kind="img2img") == ([ids[3]], False)
        assert listed(kind="extra-single-image") == ([], False)

    @pytest.mark.parametrize(
        "query",
        [{"state": "x"}, {"kind": "x"}, {"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"after": "x"}],
    )
    def test_filters_that_are_none(self, server: Server, query: dict[str, Any]) -> None:
        assert server.request("GET", "/v1/jobs", params=query).status_code == 422


class TestIdempotency:
    """Requests that repeat a key."""

    def test_a_job_is_made_once(self, hands: Hands) -> None:
        server, engine = hands()
        first = submit(server, key="k")
        again = submit(server, key="k")
        assert [first.status_code, again.status_code] == [202, 202]
        assert first.json()["id"] == again.json()["id"]
        assert len(engine.jobs) == 1
        mixed = submit(server, key="k", seed=6)
        assert (mixed.status_code, "choose a new key" in mixed.text) == (422, True)
        engine.finish(0)
        until(server, first.json()["id"], "completed")
        assert submit(server, key="k").json()["state"] == "completed"
        assert submit(server, key="other").json()["state"] == "queued"

    def test_one_that_failed_is_tried_again(self, hands: Hands) -> None:
        server, engine = hands()
        first = submit(server, key="k").json()["id"]
        engine.fail(0, "OutOfMemory")
        until(server, first, "failed")
        assert submit(server, key="k").json()["id"] != first

    def test_one_of_two_clients_leaves(self, hands: Hands) -> None:
        server, engine = hands()
        body = json.dumps(FIELDS).encode()
        head = (
            "POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        leaving = server.raw(head.encode() + body)
        engine.wait_for(1)
        with ThreadPoolExecutor(1) as pool:
            headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
            url = "/sdapi/v1/txt2img"
            staying = pool.submit(server.request, "POST", url, data=body, headers=headers)
            time.sleep(0.1)
            leaving.close()
            server.reported(1)
            engine.finish(0)
            answer = staying.result()
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["images"]) == 1
        assert (len(engine.jobs), engine.stops) == (1, [])
        again = server.request("POST", url, data=body, headers=headers)
        assert again.json()["images"] == answer.json()["images"]
        assert again.headers["x-task-id"] == answer.headers["x-task-id"]


def test_a_client_that_leaves_takes_its_request_with_it_but_no_job(hands: Hands) -> None:
    server, engine = hands()
    body = json.dumps(FIELDS).encode()
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    client = server.raw(head.encode() + body)
    engine.wait_for(1)
    job = submitted(server)
    client.close()
    (task,) = [each["id"] for each in server.request("GET", "/v1/jobs").json()["jobs"] if each["id"] != job]
    assert until(server, task, "cancelled")["stopped"] == "drop"
    engine.finish(1)
    assert until(server, job, "completed")["result"]


def test_previews(hands: Hands) -> None:
    server, engine = hands()
    job = submitted(server)
    assert look(server, job, "?preview=true")["preview"] is None
    assert [(watch.every, watch.method) for watch in engine.watches] == [(10, "cheap")]
    engine.begin(0)
    engine.preview(0, 2, RED)
    preview = opened(look(server, job, "?preview=true")["preview"])
    assert (preview.size, preview.getpixel((0, 0))) == ((8, 8), (255, 0, 0))
    assert "preview" not in look(server, job)
    engine.finish(0)
    until(server, job, "completed")
    assert look(server, job, "?preview=true")["preview"] is None


class Reader:
    """A raw client of a job's events."""

    def __init__(self, server: Server, path: str) -> None:
        self.socket = server.raw(f"GET /v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        self._data = b""

    def read_to(self, *wanted: bytes) -> bytes:
        """Read until these were sent, in order."""
        place = 0
        for text in wanted:
            while (found := self._data.find(text, place)) < 0:
                more = self.socket.recv(65536)
                assert more, self._data
                self._data += more
            place = found + len(text)
        return self._data

    def rest(self) -> list[tuple[str, int, dict[str, Any]]]:
        """All events, to the stream's end."""
        while more := self.socket.recv(65536):
            self._data += more
        self.socket.close()
        head, _, body = self._data.partition(b"\r\n\r\n")
        assert b"content-type: text/event-stream" in head.lower()
        assert b"chunked" in head
        text = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            text += body[: int(size, 16)]
            body = body[int(size, 16) + 2 :]
        found = []
        for block in text.decode().split("\n\n"):
            if block and not block.startswith(":"):
                fields = dict(line.split(": ", 1) for line in block.split("\n"))
                assert list(fields) == ["event", "id", "data"]
                found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
        return found


class TestEvents:
    """What GET /v1/jobs/{id}/events sends."""

    def test_a_life(self, hands: Hands) -> None:
        server, engine = hands()
        job = submitted(server)
        reader = Reader(server, f"jobs/{job}/events")
        reader.read_to(b'"state":"queued"', b"event: progress", b'"queue_position":1')
        engine.begin(0)
        reader.read_to(b'"state":"running"')
        engine.step(0, 2, 4)
        reader.read_to(b'"progress":0.5')
        engine.finish(0)
        events = reader.rest()
        names = [name for name, _, _ in events]
        assert names[:2] == ["state", "progress"]
        assert names[-1] == "end"
        assert names.count("end") == 1
        assert [data["state"] for name, _, data in events if name == "state"] == ["queued", "running"]
        shares = [data["progress"] for name, _, data in events if name == "progress"]
        assert shares == sorted(shares)
        assert set(events[1][2]) == {
            *("id", "eta_seconds", "queue_position", "progress", "images", "images_done"),
        }
        numbers = [number for _, number, _ in events]
        assert numbers == sorted(numbers)
        assert list(events[-1][2]) == KEYS
        assert events[-1][2]["state"] == "completed"

    def test_previews_are_sent_once_each_and_only_if_asked_for(self, hands: Hands) -> None:
        server, engine = hands()
        job = submitted(server)
        readers = [Reader(server, f"jobs/{job}/events{query}") for query in ("?previews=true", "")]
        for reader in readers:
            reader.read_to(b"event: progress")
        engine.begin(0)
        engine.preview(0, 1, RED)
        readers[0].read_to(b"event: preview")
        for reader in readers:
            reader.read_to(b'"state":"running"')
        engine.step(0, 3, 4)
        for reader in readers:
            reader.read_to(b'"progress":0.75')
        engine.finish(0)
        (seen,), none = ([data for name, _, data in reader.rest() if name == "preview"] for reader in readers)
        assert none == []
        assert (seen["id"], seen["step"], seen["media_type"]) == (job, 1, "image/png")
        assert opened(seen["image"]).getpixel((0, 0)) == (255, 0, 0)

    def test_many_changes_come_together_for_a_reader(self, hands: Hands) -> None:
        server, engine = hands()
        job = submitted(server, steps=150)
        reader = Reader(server, f"jobs/{job}/events")
        reader.read_to(b"event: progress")
        engine.begin(0)
        for step in range(150):
            engine.step(0, step, 150)
        engine.finish(0)
        assert len(reader.rest()) < 40

    @pytest.mark.parametrize("end", ["failed", "cancelled"])
    def test_other_ends(self, hands: Hands, end: str) -> None:
        server, engine = hands()
        job = submitted(server)
        reader = Reader(server, f"jobs/{job}/events")
        reader.read_to(b"event: progress")
        if end == "failed":
            engine.fail(0, "OutOfMemory")
        else:
            server.request("DELETE", f"/v1/jobs/{job}")
        name, _, data = reader.rest()[-1]
        assert (name, data["state"]) == ("end", end)

    def test_a_comment_keeps_the_connection(self, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
        usual = job_routes.Pace
        monkeypatch.setattr(job_routes, "Pace", lambda: usual(heartbeat=0.02))
        server, engine = hands()
        job = submitted(server)
        reader = Reader(server, f"jobs/{job}/events")
        reader.read_to(b": still here\n\n", b": still here\n\n")
        engine.finish(0)
        assert reader.rest()[-1][0] == "end"

    def test_the_usual_pace(self) -> None:
        assert job_routes.Pace().heartbeat == 15

    def test_a_reader_that_leaves_leaves_the_job_alone(self, hands: Hands) -> None:
        server, engine = hands()
        job = submitted(server)
        reader = Reader(server, f"jobs/{job}/events")
        reader.read_to(b"event: progress")
        reader.socket.close()
        engine.begin(0)
        engine.finish(0)
        assert until(server, job, "completed")["stopped"] is None


class TestAllEvents:
    """What GET /v1/events sends."""

    def test_jobs_that_are_there_and_jobs_that_come(self, hands: Hands) -> None:
        server, engine = hands()
        first = submitted(server)
        reader = Reader(server, "events")
        reader.read_to(b'"state":"queued"', b"event: progress")
        second = submitted(server)
        reader.read_to(second.encode())
        engine.begin(0)
        engine.step(0, 2, 4)
        reader.read_to(b'"progress":0.5')
        engine.fail(1, "OutOfMemory")
        reader.read_to(b"event: end")
        engine.finish(0)
        reader.read_to(b"event: end", b"event: end")
        server.closing()
        events = reader.rest()
        for job, last in ((first, "completed"), (second, "failed")):
            told = [(name, data.get("state")) for name, _, data in events if data["id"] == job]
            assert told[0] == ("state", "queued")
            assert told[-1] == ("end", last)
            assert [name for name, _ in told].count("end") == 1

    def test_a_job_that_begins_and_ends_between_two_looks_is_told(self, hands: Hands) -> None:
        server, engine = hands()
        reader = Reader(server, "events")
        reader.read_to(b"\r\n\r\n")
        job = submitted(server)
        engine.begin(0)
        engine.finish(0)
        reader.read_to(b"event: end")
        server.closing()
        ends = [data["id"] for name, _, data in reader.rest() if name == "end"]
        assert ends == [job]

    def test_what_ended_before_is_not_told(self, hands: Hands) -> None:
        server, engine = hands()
        job = submitted(server)
        engine.begin(0)
        engine.finish(0)
        until(server, job, "completed")
        reader = Reader(server, "events")
        reader.read_to(b"\r\n\r\n")
        server.closing()
        assert reader.rest() == []

    def test_previews_only_if_asked_for(self, hands: Hands) -> None:
        server, engine = hands()
        readers = [Reader(server, f"events{query}") for query in ("?previews=true", "")]
        for reader in readers:
            reader.read_to(b"\r\n\r\n")
        job = submitted(server)
        engine.begin(0)
        for reader in readers:
            reader.read_to(b'"state":"running"')
        engine.preview(0, 1, RED)
        readers[0].read_to(b"event: preview")
        engine.finish(0)
        for reader in readers:
            reader.read_to(b"event: end")
        server.closing()
        seen, none = ([data for name, _, data in reader.rest() if name == "preview"] for reader in readers)
        assert none == []
        assert [data["id"] for data in seen] == [job]

    def test_it_goes_on_until_the_last_job_ended_where_the_server_ends(self, hands: Hands) -> None:
        server, engine = hands()
        submitted(server)
        reader = Reader(server, "events")
        reader.read_to(b"event: progress")
        server.closing()
        engine.begin(0)
        engine.finish(0)
        assert reader.rest()[-1][0] == "end"


class Receiver:
    """Takes webhooks on a loopback port; answers with these statuses, the last one for good."""

    def __init__(self, statuses: Sequence[int]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.arrived = threading.Semaphore(0)
        left = list(statuses)
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.bodies.append(json.loads(body))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.end_headers()
                receiver.arrived.release()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class TestWebhooks:
    """Addresses that are told when a job ends."""

    @pytest.fixture
    def receive(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Receiver]]:
        running: list[Receiver] = []
        monkeypatch.setattr(job_routes, "Outbound", lambda: Outbound(allows=lambda _: True))
        monkeypatch.setattr(job_routes, "Webhooks", lambda *parts: webhook.Webhooks(*parts, (0.01,) * 3))

        def start(*statuses: int) -> Receiver:
            running.append(Receiver(statuses))
            return running[-1]

        yield start
        for receiver in running:
            receiver.close()

    @pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
    def test_it_is_told_the_end(self, hands: Hands, receive: Callable[..., Receiver], end: str) -> None:
        server, engine = hands(webhooks=True)
        receiver = receive(204)
        job = submitted(server, webhook=receiver.url)
        if end == "completed":
            engine.finish(0)
        elif end == "failed":
            engine.fail(0, "OutOfMemory")
        else:
            server.request("DELETE", f"/v1/jobs/{job}")
        assert receiver.arrived.acquire(timeout=PATIENCE)
        (body,) = receiver.bodies
        assert list(body) == KEYS
        assert (body["id"], body["state"]) == (job, end)

    def test_it_is_tried_again_three_times(
        self, hands: Hands, receive: Callable[..., Receiver], caplog: pytest.LogCaptureFixture
    ) -> None:
        server, engine = hands(webhooks=True)
        receiver = receive(500)
        job = submitted(server, webhook=receiver.url)
        engine.finish(0)
        for _ in range(4):
            assert receiver.arrived.acquire(timeout=PATIENCE)
        end = time.monotonic() + PATIENCE
        while "was not delivered" not in caplog.text and time.monotonic() < end:
            time.sleep(0.01)
        assert f"the webhook of job {job} was not delivered" in caplog.text
        assert len(receiver.bodies) == 4

    def test_one_success_is_enough_and_a_repeated_key_tells_nothing_again(
        self, hands: Hands, receive: Callable[..., Receiver]
    ) -> None:
        server, engine = hands(webhooks=True)
        receiver = receive(500, 200)
        job = submit(server, webhook=receiver.url, key="k").json()["id"]
        assert submit(server, webhook=receiver.url, key="k").json()["id"] == job
        engine.finish(0)
        for _ in range(2):
            assert receiver.arrived.acquire(timeout=PATIENCE)
        submit(server, webhook=receiver.url, key="k")
        assert not receiver.arrived.acquire(timeout=0.3)

    def test_private_addresses_are_not_called(self, hands: Hands) -> None:
        server, engine = hands(webhooks=True)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(0.3)
            port = listening.getsockname()[1]
            job = submitted(server, webhook=f"http://127.0.0.1:{port}/")
            engine.finish(0)
            until(server, job, "completed")
            with pytest.raises(TimeoutError):
                listening.accept()

    def test_nothing_is_told_of_what_was_refused_at_once(
        self, hands: Hands, receive: Callable[..., Receiver]
    ) -> None:
        server, _ = hands(webhooks=True)
        receiver = receive(200)
        assert submit(server, webhook=receiver.url, sampler_name="nope").status_code == 400
        assert not receiver.arrived.acquire(timeout=0.2)

    @pytest.mark.parametrize("address", ["nope", "ftp://example.org", "http://" + "x" * 5000])
    def test_what_is_no_address(self, hands: Hands, address: str) -> None:
        server, engine = hands(webhooks=True)
        answer = submit(server, webhook=address)
        assert (answer.status_code, "'webhook' must be" in answer.text) == (422, True)
        assert engine.jobs == []

    def test_back_off(self) -> None:
        assert len(webhook.WAITS) == 3
        assert list(webhook.WAITS) == sorted(webhook.WAITS)


def test_a_script_that_is_interrupted_begins_nothing_new(hands: Hands) -> None:
    server, engine = hands()
    picture = base64.b64encode(encode(Image.new("RGB", (64, 64)), "png", None)).decode()
    body = {"kind": "img2img", "init_images": [picture], "script_name": "Loopback", "script_args": [4, 0.5]}
    job = submitted(server, **body)
    engine.wait_for(1)
    engine.begin(0)
    assert server.request("POST", f"/v1/jobs/{job}/interrupt").status_code == 200
    ended = until(server, job, "completed")
    assert (ended["stopped"], ended["result"]["images"]) == ("interrupt", [])
    assert len(engine.jobs) == 1
