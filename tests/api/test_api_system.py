"""Routes about the server itself: probes, reports, memory, its end, and what it does not do."""

import base64
import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sdserver.api.config import Ending
from sdserver.api.door import Door
from sdserver.api.routes.report import process_seconds
from sdserver.api.routes.training import PATHS
from sdserver.engine.messages import MemoryFacts
from sdserver.web import site
from tests.api.asgi import App
from tests.api.conftest import Server

FOUR_KEYS = ["error", "detail", "body", "errors"]


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# Probes


def test_what_clients_of_the_page_probe(server: Server) -> None:
    first = server.request("GET", "/app_id").json()["app_id"]
    assert 0 <= first < 2**64
    assert server.request("GET", "/app_id").json()["app_id"] == first
    config = server.request("GET", "/config").json()
    assert (config["components"], config["dependencies"], config["version"]) == ([], [], "v1.10.1")
    assert server.request("GET", "/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert server.request("GET", "/theme.css").headers["Content-Type"].startswith("text/css")
    assert server.request("GET", "/user").json() is None
    assert server.request("GET", "/token").json() == {"token": None, "user": None}
    assert server.request("GET", "/login_check").json() is None
    assert server.get("extensions").json() == []
    assert server.get("face-restorers").json() == []


def test_the_queue_counts_what_waits(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    idle = {
        "msg": "estimation", "rank": None, "queue_size": 0, "avg_event_process_time": 0.0,
        "avg_event_concurrent_process_time": None, "rank_eta": None, "queue_eta": 1.0,
    }  # fmt: skip
    assert server.request("GET", "/queue/status").json() == idle

    class Some:
        def __init__(self, state: str) -> None:
            self.state = state

    states = [Some("running"), Some("queued"), Some("queued")]
    monkeypatch.setattr(server.engine, "active", lambda: states)
    assert server.request("GET", "/queue/status").json() == idle | {"queue_size": 2}


def test_redoc_leads_to_our_documentation(serve: Callable[..., Server]) -> None:
    server = serve(subpath="/sd")
    answer = server.request("GET", "/sd/redoc")
    assert answer.url == f"{server.url}/sd/docs"
    assert answer.status_code == 200


def test_files_are_not_served(server: Server) -> None:
    for path in ("/file=/etc/passwd", "/file=config.json", "/file=http://127.0.0.1/", "/proxy=http://x"):
        assert server.request("GET", path).status_code == 404, path


# Reports


def test_the_report(server: Server) -> None:
    answer = server.request("GET", "/internal/sysinfo")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["Content-Disposition"].startswith("inline")
    report = answer.json()
    assert report["Checkpoint"]["family"] == "sd1"
    assert report["Config"] == server.get("options").json()
    assert any(line.startswith("fastapi==") for line in report["Packages"])
    for path in ("/internal/sysinfo?attachment=true", "/internal/sysinfo-download"):
        kept = server.request("GET", path)
        assert kept.headers["Content-Disposition"].startswith('attachment; filename="sysinfo-2')
        assert kept.json()["Version"] == report["Version"]


def test_startup_and_the_names_of_options(server: Server) -> None:
    profile = server.request("GET", "/internal/profile-startup").json()
    assert profile["records"] == {"load checkpoint": 0.1}
    assert profile["total"] > 0
    hints = server.request("GET", "/internal/quicksettings-hint").json()
    assert [hint["name"] for hint in hints] == list(server.get("options").json())


def test_seconds_of_the_process_grow() -> None:
    first, second = process_seconds(), process_seconds()
    assert first is not None
    assert second is not None
    assert 0 < first <= second < 10**6


def test_memory_with_peaks(serve: Callable[..., Server]) -> None:
    server = serve()
    server.engine.memory = MemoryFacts(
        4, 10, 3, 5, active=2, inactive=1, allocated_peak=30, reserved_peak=50, active_peak=20,
        inactive_peak=10, retries=7, ooms=8,
    )  # fmt: skip
    assert server.get("memory").json()["cuda"] == {
        "system": {"free": 4, "used": 6, "total": 10},
        "active": {"current": 2, "peak": 20},
        "allocated": {"current": 3, "peak": 30},
        "reserved": {"current": 5, "peak": 50},
        "inactive": {"current": 1, "peak": 10},
        "events": {"retries": 7, "oom": 8},
    }
    server.engine.memory = MemoryFacts(4, 10, 3, 5)
    assert server.get("memory").json()["cuda"] == {"system": {"free": 4, "used": 6, "total": 10}}


# Memory and the end


@pytest.mark.parametrize("data", ["", '""', "{}", "nonsense"])
def test_unload_and_reload_take_any_body(serve: Callable[..., Server], data: str) -> None:
    server = serve()
    for name in ("unload", "reload"):
        answer = server.request("POST", f"/sdapi/v1/{name}-checkpoint", data=data)
        assert (answer.status_code, answer.json()) == (200, {})
    assert server.engine.moves == ["unload", "reload"]


def test_clients_may_end_the_server_only_if_they_are_let(serve: Callable[..., Server]) -> None:
    ended: list[str] = []
    ending = Ending(lambda: ended.append("stop"), lambda: ended.append("kill"))
    closed = serve(ending=ending)
    for name in ("server-kill", "server-stop", "server-restart"):
        answer = closed.post(name, {})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    opened = serve(ending=ending, api_server_stop=True)
    answer = opened.post("server-stop", {})
    assert (answer.status_code, answer.text, ended) == (200, "Stopping.", ["stop"])
    restart = opened.post("server-restart", {})
    assert (restart.status_code, restart.json()["error"], ended) == (501, "NotServed", ["stop"])
    opened.post("server-kill", {})
    assert ended == ["stop", "kill"]
    again = Ending(restart=lambda: ended.append("restart"))
    answer = serve(ending=again, api_server_stop=True).post("server-restart", {})
    assert (answer.status_code, answer.text, ended[2:]) == (200, "Restarting.", ["restart"])


def test_new_work_is_refused_while_the_door_is_shut(serve: Callable[..., Server]) -> None:
    door = Door()
    server = serve(door=door)
    health = server.request("GET", "/health")
    assert (health.status_code, health.text) == (200, "ok\n")
    assert door.probed_at is not None
    door.leave()
    health = server.request("HEAD", "/health")
    assert health.status_code == 503
    assert int(health.headers["retry-after"]) > 0
    assert server.post("txt2img", {"steps": 1}).status_code == 200, "it is let in, for a while"
    body = {"steps": 1}
    key = {"Idempotency-Key": "k"}
    first = server.post("txt2img", body, headers=key)
    assert first.status_code == 200
    door.shut()
    work: dict[str, dict[str, object]] = {
        "txt2img": body,
        "img2img": {"init_images": [picture()]},
        "extra-single-image": {"image": picture(), "upscaler_1": "Lanczos"},
    }
    for name, data in work.items():
        refused = server.post(name, data)
        assert (refused.status_code, refused.json()["error"]) == (503, "NotReady"), name
        assert int(refused.headers["retry-after"]) > 0
    assert server.post("txt2img", body, headers=key).content == first.content, "it is no new work"
    assert server.get("progress").status_code == 200
    door.open()
    assert server.post("txt2img", body).status_code == 200
    assert server.request("GET", "/health").status_code == 200


# What is not done


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_trained(server: Server, path: str) -> None:
    answer = server.request("POST", f"/sdapi/v1{path}", data="{")
    assert answer.status_code == 501
    assert list(answer.json()) == FOUR_KEYS
    assert "training program" in answer.json()["detail"]


@pytest.mark.parametrize(("model", "file"), [("clip", "models/BLIP/"), ("deepdanbooru", "resnet_custom_v3")])
def test_interrogation_names_the_missing_model(server: Server, model: str, file: str) -> None:
    for prefix in ("", "data:image/png;base64,"):
        answer = server.post("interrogate", {"image": prefix + picture(), "model": model})
        assert (answer.status_code, answer.json()["error"]) == (501, "MissingModel")
        assert file in answer.json()["detail"]


def test_interrogation_checks_the_picture_first_then_the_model(serve: Callable[..., Server]) -> None:
    for quirks, status in ((False, 422), (True, 500)):
        server = serve(a1111_quirks=quirks)
        for body in ({}, {"model": "clip"}, {"image": None}, {"image": "x!", "model": "foo"}):
            answer = server.post("interrogate", body)
            assert (answer.status_code, answer.json()["detail"]) == (status, "Invalid encoded image")
        unknown = server.post("interrogate", {"image": picture(), "model": "foo"})
        assert (unknown.status_code, unknown.json()["detail"]) == (404, "Model not found")
        assert picture() not in server.post("interrogate", {"image": [picture()]}).text


def test_without_the_page_there_is_nothing_of_it(tmp_path: Path) -> None:
    with_page, without = App(tmp_path), App(tmp_path, has_page=False)
    gone = {path for _, path in with_page.routes()} - {path for _, path in without.routes()}
    static = Path(site.__file__).parent / "static"
    files = [file for folder in ("page", "vendor") for file in (static / folder).rglob("*.*")]
    assert gone == {f"/web/{file.relative_to(static).as_posix()}" for file in files} | {
        "/app_id", "/config", "/info", "/queue/status", "/theme.css",
        "/internal/sysinfo", "/internal/sysinfo-download", "/internal/profile-startup",
        "/internal/quicksettings-hint", "/internal/progress", "/internal/pending-tasks",
        "/sd_extra_networks/thumb", "/sd_extra_networks/cover-images", "/sd_extra_networks/pictures",
        "/sd_extra_networks/metadata", "/sd_extra_networks/get-single-card",
    }  # fmt: skip
    for path in gone:
        answer = without.ask("GET", path)
        assert (answer.status, json.loads(answer.body)) == (404, {"detail": "Not Found"})
    assert without.ask("GET", "/internal/ping").status == without.ask("GET", "/").status == 200


# Secrets

HOLDERS = ("api_auth", "gradio_auth", "gradio_auth_path", "model_url", "tls_keyfile", "api_keys_file")


def test_no_route_tells_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    canary = "canary-0123456789"
    app = App(
        tmp_path,
        users=(("ann", canary),),
        api_keys=(hashlib.sha256(canary.encode()).digest(),),
        flags=dict.fromkeys(HOLDERS, canary) | {"port": 1},
    )
    key = {"Authorization": f"Bearer {canary}"}
    with caplog.at_level(logging.DEBUG):
        answers = {path: app.ask("GET", path, key) for method, path in app.routes() if method == "GET"}
        logged_in = app.login("ann", canary)
        app.login("ann", canary + "x")
        app.ask("GET", "/config", {"Authorization": f"Bearer {canary}x"})
    assert json.loads(answers["/sdapi/v1/cmd-flags"].body) == dict.fromkeys(HOLDERS) | {"port": 1}
    assert json.loads(answers["/internal/sysinfo"].body)["Flags"]["port"] == 1
    assert [path for path, answer in answers.items() if canary.encode() in answer.body] == []
    assert canary.encode() not in logged_in.body
    assert canary not in caplog.text
