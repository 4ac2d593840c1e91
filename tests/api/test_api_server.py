"""The server around the routes: auth, limits, CORS, prefixes, pages, progress, disconnects, failures."""

import base64
import json
import posixpath
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
from patience import PATIENCE, TIMES

from sdserver.web.site import page_routes
from tests.api.conftest import Server

BASE = {"prompt": "cat", "steps": 4, "width": 64, "height": 64, "seed": 1}
FOUR_KEYS = ["error", "detail", "body", "errors"]
USERS = (("ann", "p:w,1"), ("bob", "猫"))


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class Background:
    """A request that is under way."""

    def __init__(self, server: Server, body: dict[str, object]) -> None:
        self.response: requests.Response | None = None
        self._thread = threading.Thread(target=self._run, args=(server, body))
        self._thread.start()
        assert server.engine.submitted.wait(PATIENCE)

    def _run(self, server: Server, body: dict[str, object]) -> None:
        self.response = server.post("txt2img", body)

    def join(self) -> requests.Response:
        self._thread.join(PATIENCE)
        assert self.response is not None
        return self.response


def test_the_front_process_does_not_need_torch() -> None:
    code = "import sys, sdserver.api.server, sdserver.web.site; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE).returncode == 0


# Auth


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("none", {}),
        ("wrongpw", basic("ann", "x")),
        ("wronguser", basic("x", "p:w,1")),
        ("badb64", {"Authorization": "Basic !!!"}),
        ("bearer", {"Authorization": "Bearer x"}),
    ],
)
def test_refusals_are_automatic1111s(
    serve: Callable[..., Server], goldens: Callable[[str], Any], name: str, headers: dict[str, str]
) -> None:
    response = serve(users=USERS).get("samplers", headers=headers)
    recorded = goldens("auth")[name]
    assert response.status_code == recorded["status"]
    assert response.json() == json.loads(recorded["body"])
    assert response.headers["WWW-Authenticate"].startswith("Basic ")


def test_everything_but_the_probes_needs_a_login(serve: Callable[..., Server]) -> None:
    server = serve(users=USERS, subpath="/sd")
    paths = [
        "/",
        "/docs",
        "/openapi.json",
        "/web/page/app.js",
        "/sdapi/v1/options",
        "/nope",
        "/sd/docs",
        "/health/",
        "/sd",
    ]
    for path in paths:
        assert server.request("GET", path).status_code == 401, path
        assert server.request("GET", path, headers=basic("ann", "p:w,1")).status_code != 401, path
    for path in ("/health", "/internal/ping", "/sd/health"):
        assert server.request("GET", path).status_code == 200, path
    assert server.post("options", {"eta_ddim": 1}).status_code == 401
    assert server.get("options", headers=basic("bob", "猫")).json()["eta_ddim"] == 0.0


@pytest.mark.parametrize("header", ["", "Basic", "Basic ", "Basic !!!", "nonsense", "Bearer x"])
def test_without_users_the_header_does_not_matter(server: Server, header: str) -> None:
    assert server.get("options", headers={"Authorization": header}).status_code == 200


# Middleware


def test_every_answer_tells_time_and_id(server: Server) -> None:
    for path in ("/sdapi/v1/samplers", "/nope", "/"):
        response = server.request("GET", path)
        assert float(response.headers["X-Process-Time"]) >= 0
        assert len(response.headers["X-Request-Id"]) == 32
    assert server.get("samplers", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert server.get("samplers", headers={"X-Request-Id": "a b<c"}).headers["X-Request-Id"] != "a b<c"


def test_requests_are_reported_by_route(serve: Callable[..., Server]) -> None:
    server = serve()
    server.post("txt2img", BASE)
    server.get("nope")
    server.request("GET", "/")
    server.post("txt2img", {"steps": "x"})
    assert server.reported(4) == [
        ("/sdapi/v1/txt2img", 200),
        ("unmatched", 404),
        ("page", 200),
        ("/sdapi/v1/txt2img", 422),
    ]


def test_a_large_body_is_refused_before_it_is_read(serve: Callable[..., Server]) -> None:
    server = serve(max_body_bytes=2000)
    response = server.post("txt2img", BASE | {"x": "y" * 3000})
    assert response.status_code == 413
    assert list(response.json()) == FOUR_KEYS
    assert "2,000 bytes" in response.json()["detail"]
    assert server.post("txt2img", BASE | {"x": "y" * 1000}).status_code == 200


def test_a_large_body_of_unknown_length_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(max_body_bytes=2000)
    chunks = (b"x" * 500 for _ in range(10))
    headers = {"Content-Type": "application/json"}
    response = server.request("POST", "/sdapi/v1/txt2img", data=chunks, headers=headers)
    assert response.status_code == 413
    assert list(response.json()) == FOUR_KEYS
    assert server.engine.jobs == []


def test_cors(serve: Callable[..., Server]) -> None:
    server = serve(cors_allow_origins=("http://example.com",), users=USERS)
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = server.request("OPTIONS", "/sdapi/v1/txt2img", headers=ask | {"Origin": "http://example.com"})
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == "http://example.com"
    assert allowed.headers["Access-Control-Allow-Credentials"] == "true"
    other = server.request("OPTIONS", "/sdapi/v1/txt2img", headers=ask | {"Origin": "http://evil.example"})
    assert (other.status_code, other.text) == (400, "Disallowed CORS origin")
    refused = server.get("options", headers={"Origin": "http://example.com"})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "http://example.com"


def test_pages_of_other_sites_cannot_make_pictures(serve: Callable[..., Server]) -> None:
    server = serve(cors_allow_origins_regex=r"https://.*\.good\.example")
    foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert server.post("txt2img", BASE, headers=foreign).status_code == 403
    assert server.post("interrupt", {}, headers=foreign).status_code == 403
    assert server.engine.jobs == []
    assert (
        server.post("txt2img", BASE, headers=foreign | {"Origin": "https://a.good.example"}).status_code
        == 200
    )
    assert server.post("txt2img", BASE, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_prefix_may_be_cut_off_by_the_proxy_or_not(serve: Callable[..., Server]) -> None:
    server = serve(subpath="/sd")
    for path in ("/sdapi/v1/samplers", "/sd/sdapi/v1/samplers", "/sd/", "/sd/docs"):
        assert server.request("GET", path).status_code == 200, path
    assert server.request("GET", "/sdx/docs").status_code == 404
    moved = server.request("GET", "/sd/sdapi/v1/samplers/", allow_redirects=False)
    assert moved.status_code == 307
    assert moved.headers["Location"] == f"{server.url}/sd/sdapi/v1/samplers"


# Pages and probes


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/web/page/app.js", "/web/docs.js", "/web/style.css", "/web/icon.svg"]
)
def test_pages_load_nothing_from_elsewhere(server: Server, path: str) -> None:
    plain = {"Accept-Encoding": "identity"}
    response = server.request("GET", path, headers=plain)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.text.replace("http://www.w3.org/2000/svg", "").count("://") == 0
    head = server.request("HEAD", path, headers=plain)
    assert (head.status_code, head.text) == (200, "")
    assert head.headers["Content-Length"] == str(len(response.content))


def test_the_page_names_only_files_and_routes_that_exist(server: Server) -> None:
    html = server.request("GET", "/").text + server.request("GET", "/docs").text
    for path in ("web/page/app.js", "web/docs.js", "web/style.css", "web/icon.svg", "docs", "openapi.json"):
        assert f'="{path}"' in html
        assert server.request("GET", f"/{path}").status_code == 200
    scripts = [route.path for route in page_routes() if route.path.endswith(".js")]
    named = {
        name
        for path in scripts
        if "/vendor/" not in path
        for name in re.findall(r"[\"'`]((?:sdapi/v1|v1)/[\w-]+)", server.request("GET", path).text)
    }
    routes = server.request("GET", "/openapi.json").json()["paths"]
    assert len(named) > 15
    assert {name for name in named if not any(route.startswith(f"/{name}") for route in routes)} == set()


def test_parts_of_the_page_are_packed_and_not_sent_twice(server: Server) -> None:
    path = "/web/vendor/preact.js"
    plain = server.request("GET", path, headers={"Accept-Encoding": "identity"})
    packed = server.request("GET", path, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.content == plain.content
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 2
    refused = server.request("GET", path, headers={"Accept-Encoding": "gzip;q=0.0"})
    assert "Content-Encoding" not in refused.headers
    again = server.request("GET", path, headers={"If-None-Match": plain.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_first_paint_is_small(server: Server) -> None:
    """What the page loads before anything is clicked: under 300 kB packed."""
    html = server.request("GET", "/").text
    paths = set(re.findall(r'(?:href|src)="(web/[^"]+)"', html))
    waiting = {path for path in paths if path.endswith(".js")}
    while waiting:
        path = waiting.pop()
        script = server.request("GET", f"/{path}").text
        for found in re.findall(r'^import .*?from "(\..+?)"', script, re.MULTILINE):
            part = posixpath.normpath(posixpath.join(posixpath.dirname(path), found))
            if part not in paths:
                paths.add(part)
                waiting.add(part)
    sizes = {}
    for path in paths:
        answer = server.request("GET", f"/{path}", headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, path
        sizes[path] = int(answer.headers["Content-Length"])
    assert "web/page/tabs/txt2img.js" in sizes
    assert sum(sizes.values()) < 300_000


def test_probes(server: Server) -> None:
    assert server.request("GET", "/internal/ping").json() == {}
    assert server.request("GET", "/health").text == "ok\n"
    assert server.request("HEAD", "/health").status_code == 200


def test_the_description_has_every_field(server: Server) -> None:
    schemas = server.request("GET", "/openapi.json").json()["components"]["schemas"]
    assert len(schemas["Txt2ImgRequest"]["properties"]) == 55
    assert schemas["Txt2ImgRequest"]["properties"]["steps"]["default"] == 50


def test_flags_hold_no_secrets(serve: Callable[..., Server]) -> None:
    flags = {
        "port": 8000,
        "api_auth": "u:p",
        "gradio_auth": "x",
        "admin_key": "x",
        "model_url": "https://t@x",
        "subpath": None,
    }
    expected = {
        "port": 8000,
        "api_auth": None,
        "gradio_auth": None,
        "admin_key": None,
        "model_url": None,
        "subpath": None,
    }
    assert serve(flags=flags).get("cmd-flags").json() == expected


def test_memory(serve: Callable[..., Server]) -> None:
    server = serve()
    memory = server.get("memory").json()
    assert memory["cuda"] == {"error": "unavailable"}
    assert memory["ram"]["total"] == memory["ram"]["free"] + memory["ram"]["used"]
    facts = type(server.engine.memory)(4, 10, 3, 5) if server.engine.memory else None
    server.engine.memory = facts
    assert server.get("memory").json()["cuda"]["system"] == {"free": 4, "used": 6, "total": 10}


def test_refresh(serve: Callable[..., Server]) -> None:
    server = serve()
    response = server.post("refresh-checkpoints", {})
    assert (response.status_code, response.json(), server.catalog.refreshed) == (200, None, 1)


# Jobs under way


def test_progress_interrupt_and_idle_again(serve: Callable[..., Server]) -> None:
    server = serve()
    server.engine.held = True
    request = Background(server, BASE | {"batch_size": 2})
    busy = server.get("progress").json()
    assert busy["progress"] == pytest.approx(0.01 + 2 / 8)
    assert busy["eta_relative"] >= 0
    assert busy["current_image"] is None
    state = busy["state"]
    assert (state["job_count"], state["job_no"], state["sampling_steps"]) == (2, 0, 4)
    assert (state["job"], state["interrupted"]) == ("Batch 1 out of 2", False)
    assert len(state["job_timestamp"]) == 14

    interrupt = server.post("interrupt", {})
    assert (interrupt.status_code, interrupt.json()) == (200, {})
    answer = request.join().json()
    info = json.loads(answer["info"])
    assert len(answer["images"]) == len(info["infotexts"]) == 1
    assert info["all_seeds"] == [1, 2]

    idle = server.get("progress").json()
    assert (idle["progress"], idle["eta_relative"], idle["state"]["job_count"]) == (0.0, 0.0, 0)
    assert idle["state"]["interrupted"] is True
    assert idle["state"]["job_timestamp"] == state["job_timestamp"]
    server.engine.held = False
    server.post("txt2img", BASE)
    assert server.get("progress").json()["state"]["interrupted"] is False


def test_skip_answers_null_and_nothing_to_stop_is_no_error(serve: Callable[..., Server]) -> None:
    server = serve()
    for name, body in (("skip", None), ("interrupt", {})):
        response = server.post(name, {})
        assert (response.status_code, response.json()) == (200, body)
    assert server.engine.stops == []


def test_a_client_that_leaves_cancels_its_job(serve: Callable[..., Server]) -> None:
    server = serve()
    server.engine.held = True
    connection = raw_request(server)
    assert server.engine.submitted.wait(PATIENCE)
    assert not server.engine.stopped.wait(0.1)
    connection.close()
    assert server.engine.stopped.wait(PATIENCE)
    assert [mode for _, mode in server.engine.stops] == ["drop"]
    assert server.reported(1) == [("/sdapi/v1/txt2img", 499)]
    assert server.get("progress").json()["state"]["job_count"] == 0


def test_a_job_may_go_on_without_its_client(serve: Callable[..., Server]) -> None:
    server = serve(finish_on_disconnect=True)
    server.options.apply({"save_incomplete_images": True})
    server.engine.held = True
    connection = raw_request(server, {"save_images": True})
    assert server.engine.submitted.wait(PATIENCE)
    connection.close()
    assert not server.engine.stopped.wait(0.2)
    server.post("interrupt", {})
    assert len(server.reported(2)) == 2
    assert server.engine.stops[0][1] == "interrupt"
    assert [path.name for path in (server.data_dir / "outputs").rglob("*.png")] == ["00000-1.png"]


def raw_request(server: Server, more: dict[str, object] | None = None) -> Any:
    body = json.dumps(BASE | (more or {})).encode()
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return server.raw(head + body)


def test_time_is_up(serve: Callable[..., Server]) -> None:
    for seconds in TIMES:
        server = serve(request_timeout=seconds)
        server.engine.held = True
        response = server.post("txt2img", BASE)
        assert response.status_code == 504
        assert list(response.json()) == FOUR_KEYS
        if server.engine.stops:
            break
    assert server.engine.stops[0][1] == "drop"


def test_a_full_queue_says_when_to_come_back(serve: Callable[..., Server]) -> None:
    server = serve()
    server.engine.full = True
    response = server.post("txt2img", BASE)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    assert response.json() == {
        "error": "QueueFull",
        "detail": "64 requests wait already; try again in 7 s.",
        "body": "",
        "errors": "",
    }


def test_a_failed_job_is_a_500_with_its_class(serve: Callable[..., Server]) -> None:
    server = serve()
    server.engine.failure = "OutOfMemory"
    response = server.post("txt2img", BASE)
    assert response.status_code == 500
    assert response.json()["error"] == "OutOfMemory"
    assert response.json()["errors"] == "The device's memory does not suffice."
    assert server.get("progress").json()["state"]["job_count"] == 0


def test_jobs_dropped_by_the_server_are_a_503(serve: Callable[..., Server]) -> None:
    server = serve()
    server.engine.held = True
    request = Background(server, BASE)
    server.engine.active()[0].stop("drop")
    server.get("samplers")
    assert request.join().status_code == 503


def test_something_unexpected_tells_nothing(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(server.catalog, "all", lambda: 1 / 0)
    response = server.get("sd-models")
    assert response.status_code == 500
    assert list(response.json()) == FOUR_KEYS
    assert response.json()["error"] == "ZeroDivisionError"
    assert "division" not in response.text
    assert "X-Process-Time" in response.headers


# Saving


def test_saved_files_and_the_grid(serve: Callable[..., Server]) -> None:
    server = serve()
    answer = server.post("txt2img", BASE | {"save_images": True, "batch_size": 2}).json()
    info = json.loads(answer["info"])
    assert len(answer["images"]) == len(info["infotexts"]) == 3
    assert info["index_of_first_image"] == 1
    files = sorted(path for path in (server.data_dir / "outputs").rglob("*") if path.is_file())
    names = [f"{path.parents[1].name}/{path.name}" for path in files]
    assert names == [
        "txt2img-grids/grid-0000.png",
        "txt2img-images/00000-1.png",
        "txt2img-images/00001-2.png",
    ]
    for path, image in zip(files, answer["images"], strict=True):
        assert path.read_bytes() == base64.b64decode(image)


def test_interrupted_pictures_are_not_saved_and_no_pictures_are_sent_if_unwanted(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    server.engine.held = True
    request = Background(server, BASE | {"save_images": True, "send_images": False})
    server.post("interrupt", {})
    assert request.join().json()["images"] == []
    assert not (server.data_dir / "outputs").exists()


def test_a_picture_that_cannot_be_saved_is_sent_all_the_same(serve: Callable[..., Server]) -> None:
    server = serve()
    (server.data_dir / "outputs").write_text("a file where the folder should be")
    response = server.post("txt2img", BASE | {"save_images": True})
    assert response.status_code == 200
    assert len(response.json()["images"]) == 1
    assert response.headers["X-Save-Error"]
