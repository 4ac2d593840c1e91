"""Requests that end early or ask for too much: what was begun for them ends, and nothing is kept."""

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from patience import PATIENCE
from PIL import Image

from sdserver.api import work
from sdserver.api.answer.answer import Answer
from sdserver.api.board import Board
from sdserver.api.config import Limits
from sdserver.api.engine import Engine
from sdserver.api.progress import Progress as ProgressView
from sdserver.api.scripts import drive
from sdserver.api.scripts.script import Context, Outcome, Run, Script, Steps
from sdserver.catalog.networks import NetworkFolders
from sdserver.jobs.events import Finished, Progress, Started
from tests.api.conftest import Server
from tests.api.test_api_board import DOT, Hand, jobs_of
from tests.api.test_api_requests import detail_of
from tests.api.test_api_scripts_img2img import base64_of, gradient

BASE = {"prompt": "cat", "steps": 2, "width": 64, "height": 64}
MATRIX = BASE | {"prompt": "a|b|c", "script_name": "Prompt matrix"}
NOW = datetime(2026, 11, 21, 10, 20, 30, tzinfo=UTC)


class Gate:
    """Holds worker threads up."""

    def __init__(self) -> None:
        self.entered, self.opened, self.count = threading.Event(), threading.Event(), 0

    def pass_through(self) -> None:
        self.count += 1
        self.entered.set()
        assert self.opened.wait(PATIENCE)

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, held up."""

        def held(*arguments: Any) -> Any:
            self.pass_through()
            return function(*arguments)

        return held


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


def left(server: Server, gate: Gate, body: dict[str, Any]) -> dict[str, Any]:
    """The job of a client that left while its work was held up, after that went on."""
    data = json.dumps(body).encode()
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = server.raw(head.encode() + data)
    assert gate.entered.wait(PATIENCE)
    connection.close()
    job = latest(server)
    end = time.monotonic() + PATIENCE
    while job["ended"] is None and time.monotonic() < end:
        time.sleep(0.01)
        job = latest(server)
    gate.opened.set()
    server.post("png-info", {"image": base64_of(gradient(8, 8))})  # one worker: what it had before is done
    return job


def latest(server: Server) -> dict[str, Any]:
    jobs: list[dict[str, Any]] = server.request("GET", "/v1/jobs").json()["jobs"]
    return jobs[0]


def test_who_leaves_while_a_script_is_at_work(
    serve: Callable[..., Server], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed: list[object] = []

    def begin(context: Context, _arguments: object) -> Steps:
        def steps() -> Steps:
            gate.pass_through()
            resumed.append((yield [Run(context.request)]))
            return Outcome((), {})

        return steps()

    monkeypatch.setattr(drive, "script_of", lambda _: Script("Held", ("txt2img",), (), begin))
    server = serve()
    job = left(server, gate, BASE | {"script_name": "Held"})
    assert (job["state"], job["error"]) == ("cancelled", None)
    assert (resumed, server.engine.jobs) == ([], [])


@pytest.mark.parametrize(("module", "name"), [(work, "deliver"), (drive, "translate")])
def test_who_leaves_amid_a_scripts_runs_has_no_more_of_them_worked_on(
    serve: Callable[..., Server], gate: Gate, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    monkeypatch.setattr(module, name, gate.before(getattr(module, name)))
    server = serve()
    assert left(server, gate, MATRIX)["state"] == "cancelled"
    assert gate.count == 1


def test_who_leaves_amid_a_scripts_pictures_has_no_more_of_them_encoded(
    serve: Callable[..., Server], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive, "encoded", gate.before(vars(drive)["encoded"]))
    assert left(serve(), gate, MATRIX)["state"] == "cancelled"
    assert gate.count == 1


def test_an_answered_request_leaves_no_pictures_behind(server: Server) -> None:
    known = {id(thing) for thing in things()}
    body = MATRIX | {"init_images": [base64_of(gradient(64, 64))]}
    assert len(server.post("img2img", body).json()["images"]) == 5
    end = time.monotonic() + PATIENCE
    while (found := [thing for thing in things() if id(thing) not in known]) and time.monotonic() < end:
        time.sleep(0.05)
    assert found == []


def things() -> list[object]:
    gc.collect()
    # Some objects warn when they are asked for their `__class__`, as `isinstance` does.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Answer | Image.Image)]


@pytest.mark.parametrize("script", ["X/Y/Z plot", "Prompt matrix", "Prompts from file or textbox"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("n_iter", 10**9),
        ("n_iter", 2**63),
        ("batch_size", -1),
        ("width", 10**9),
        ("height", 2**63),
    ],
)
def test_numbers_of_a_request_with_a_script_are_checked_also_where_its_runs_have_others(
    server: Server, script: str, field: str, value: int
) -> None:
    settings = "--seed 1 --n_iter 1 --batch_size 1 --width 64 --height 64 --prompt a"
    arguments = {
        "X/Y/Z plot": ["Seed", "1,2", None, "Size", "64x64", None],
        "Prompts from file or textbox": [False, False, "start", settings],
    }
    body = BASE | {"save_images": False, "script_name": script, "script_args": arguments.get(script, [])}
    response = server.post("txt2img", body | {field: value})
    assert response.status_code == 422
    assert f"'{field}'" in detail_of(response.json())


@pytest.mark.parametrize("field", ["upscaling_resize_w", "upscaling_resize_h"])
def test_sides_that_no_float_holds(server: Server, field: str) -> None:
    body = {"image": base64_of(gradient(8, 8)), "upscaler_1": "Lanczos", "resize_mode": 1, field: 10**400}
    response = server.post("extra-single-image", body)
    assert response.status_code == 422
    assert "too large" in detail_of(response.json())


def test_networks_of_sd_upscale_get_no_larger_pictures_than_those_of_extras(
    serve: Callable[..., Server], tmp_path: Any
) -> None:
    (tmp_path / "esrgan").mkdir()
    (tmp_path / "esrgan/Net.pth").write_bytes(b"")
    limits = Limits(max_width=64, max_height=64, max_pixels=64 * 64)
    server = serve(folders=NetworkFolders(esrgan=(tmp_path / "esrgan",)), limits=limits)

    def asked(upscaler: str, side: int, scale: float) -> int:
        init = {"init_images": [base64_of(gradient(side, side))], "script_name": "SD upscale"}
        response = server.post("img2img", BASE | init | {"script_args": [None, 0, upscaler, scale]})
        assert response.status_code == 200 or "A network enlarges" in detail_of(response.json())
        return response.status_code

    assert [asked("Net", 64, 2), asked("Lanczos", 72, 1), asked("Net", 72, 1)] == [200, 200, 422]
    assert [asked("Net", 24, 4), asked("Net", 24, 5)] == [200, 422]


def test_progress_never_falls_where_there_is_more_to_do_than_was_known() -> None:
    board, hand = Board(1, 1), Hand()
    entry = board.open("txt2img", "a", NOW)
    view = ProgressView(board)
    entry.submit(cast(Engine, hand), jobs_of("a", 2))
    (ticket,) = hand.tickets
    seen = [view.view().progress]
    for name in ("a/0", "a/1"):
        ticket.observe(Started(name))
        for step in range(11):
            ticket.observe(Progress(name, step, 10))
            seen.append(view.view().progress)
        ticket.observe(Finished(name, DOT))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.01, 1.0)
    other = board.open("txt2img", "b", NOW)
    assert view.share(other)[0] == 0.01
