"""Progress by task id, as AUTOMATIC1111's page asks for it; the values are those of its recorded answers."""

import base64
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from PIL import Image

from sdserver.jobs.events import Picture
from tests.api.by_hand import HandEngine
from tests.api.conftest import Server

JOB = {"kind": "txt2img", "prompt": "cat", "steps": 40, "width": 64, "height": 64}
WAITING: dict[str, Any] = {
    "active": False,
    "queued": False,
    "completed": False,
    "progress": None,
    "eta": None,
    "live_preview": None,
    "id_live_preview": -1,
    "textinfo": "Waiting...",
}
RUNNING = WAITING | {"active": True, "progress": 0.0, "textinfo": None}


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[tuple[Server, HandEngine]]:
    engine = HandEngine()
    server = Server(tmp_path, engine=engine)
    yield server, engine
    server.close()


def ask(server: Server, task: str, **fields: Any) -> dict[str, Any]:
    answer = server.request("POST", "/internal/progress", json={"id_task": task, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def submit(server: Server, task: str) -> None:
    answer = server.request("POST", "/v1/jobs", json=JOB | {"force_task_id": task})
    assert answer.status_code == 202, answer.text


def test_a_task_that_is_not_known(server: Server) -> None:
    for fields in ({}, {"id_live_preview": -1, "live_preview": True}, {"id_live_preview": 5}):
        assert ask(server, "task(nope)", **fields) == WAITING


def test_a_tasks_life(hand: tuple[Server, HandEngine]) -> None:
    server, engine = hand
    for task in ("task(a)", "task(b)", "task(c)"):
        submit(server, task)
    assert ask(server, "task(b)") == WAITING | {"queued": True, "textinfo": "In queue: 2/3"}
    began = time.monotonic()
    engine.begin(0)
    assert ask(server, "task(a)") == RUNNING
    assert ask(server, "task(b)")["textinfo"] == "In queue: 1/2"
    engine.step(0, 5, 40)
    time.sleep(0.05)
    told = ask(server, "task(a)", id_live_preview=7)
    eta = told.pop("eta")
    assert told == {key: value for key, value in RUNNING.items() if key != "eta"} | {
        "progress": 0.125,
        "id_live_preview": 7,
    }
    assert 7 * 0.05 <= eta < 7.1 * (time.monotonic() - began)  # an eighth is done
    engine.finish(0)
    wait_for(lambda: ask(server, "task(a)")["completed"])
    assert ask(server, "task(a)") == WAITING | {"completed": True}


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_previews_are_sent_when_they_are_new(hand: tuple[Server, HandEngine]) -> None:
    server, engine = hand
    submit(server, "a")
    engine.begin(0)
    assert ask(server, "a", live_preview=False) == RUNNING
    assert engine.watches == []
    assert ask(server, "a") == RUNNING
    assert len(engine.watches) == 1
    engine.preview(0, 10, Picture(8, 8, b"\0\xff\0" * 64))
    first = ask(server, "a")
    head, _, data = first["live_preview"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (0, 255, 0)
    known = first["id_live_preview"]
    assert known != -1
    again = ask(server, "a", id_live_preview=known)
    assert (again["live_preview"], again["id_live_preview"]) == (None, known)
    engine.preview(0, 20, Picture(8, 8, b"\xff\0\0" * 64))
    newer = ask(server, "a", id_live_preview=known)
    assert newer["live_preview"]
    assert newer["id_live_preview"] != known
    unwanted = ask(server, "a", id_live_preview=known, live_preview=False)
    assert (unwanted["live_preview"], unwanted["id_live_preview"]) == (None, known)


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_a_task_that_did_not_succeed_is_completed_too(hand: tuple[Server, HandEngine], end: str) -> None:
    server, engine = hand
    submit(server, "a")
    if end == "fail":
        engine.fail(0, "OutOfMemory")
    else:
        server.request("DELETE", "/v1/jobs/a")
    wait_for(lambda: ask(server, "a")["completed"])
    assert ask(server, "a") == WAITING | {"completed": True}


def test_several_tasks_may_be_active(hand: tuple[Server, HandEngine]) -> None:
    server, engine = hand
    for number, task in enumerate("ab"):
        submit(server, task)
        engine.begin(number)
    assert [ask(server, task)["active"] for task in "ab"] == [True, True]


def test_pending_tasks(hand: tuple[Server, HandEngine]) -> None:
    server, engine = hand
    get: Callable[[], Any] = lambda: server.request("GET", "/internal/pending-tasks").json()  # noqa: E731
    assert get() == {"size": 0, "tasks": []}
    for task in "abc":
        submit(server, task)
    engine.begin(1)
    assert get() == {"size": 2, "tasks": ["a", "c"]}


@pytest.mark.parametrize("body", [{}, {"id_task": None}])
def test_a_missing_id(server: Server, serve: Callable[..., Server], body: dict[str, Any]) -> None:
    answer = server.request("POST", "/internal/progress", json=body)
    assert (answer.status_code, list(answer.json())) == (422, ["error", "detail", "body", "errors"])
    assert "force_task_id" in answer.json()["detail"]
    quirky = serve(a1111_quirks=True)
    assert quirky.request("POST", "/internal/progress", json=body).status_code == 500


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"id_task": []},
        {"id_task": "a", "id_live_preview": "x"},
        {"id_task": "a", "id_live_preview": 2**63},
        None,
    ],
)
def test_bodies_that_are_none(server: Server, body: Any) -> None:
    assert server.request("POST", "/internal/progress", json=body).status_code == 422
