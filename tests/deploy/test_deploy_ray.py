"""The server as an application of Ray Serve.

Ray itself (500 MB) is installed, started and given deploy/ray/serve.yaml only with REAL_RAY=1.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import requests
import yaml
from node import CHECKPOINT, KEPT_VARIABLES, LOOPBACK, ROOT, free_ports, request, wait_until
from patience import PATIENCE
from starlette.requests import Request
from starlette.responses import Response

from sdserver.errors import SettingsError
from sdserver.ray_app import Replica, _headers, build
from tests.deploy.balancers import DEPLOY
from tests.deploy.conftest import status_counts

FLAGS = ("--ckpt", str(CHECKPOINT), "--threads", "1", "--drain-delay", "0")
BODY = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 1}


def asked(method: str, path: str, body: object = None) -> Request:
    """A request as Ray gives it to a replica."""
    path, _, query = path.partition("?")
    content = b"" if body is None else json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "client": ("192.0.2.77", 7),
        "query_string": query.encode(),
        "headers": [*headers, (b"connection", b"keep-alive"), (b"x-request-id", b"mine")],
        "server": ("ray", 80),
        "scheme": "http",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.response.body", "body": content} | {"type": "http.request"}

    return Request(scope, receive)


async def body_of(answer: Response) -> bytes:
    """All of a streamed answer."""
    return b"".join([piece async for piece in answer.body_iterator])  # type: ignore[attr-defined]


async def passes_on(replica: Replica) -> None:
    made = await replica(asked("POST", "/sdapi/v1/txt2img", BODY))
    assert made.status_code == 200
    assert made.headers["x-request-id"] == "mine"
    assert "connection" not in made.headers
    assert len(json.loads(await body_of(made))["images"]) == 1
    job = {
        "kind": "txt2img",
        "steps": 150,
        "n_iter": 20,
        "width": 64,
        "height": 64,
        "force_task_id": "long/one",
    }
    assert (await replica(asked("POST", "/v1/jobs", job))).status_code == 202
    events = await replica(asked("GET", "/v1/jobs/long%2Fone/events?previews=true"))
    pieces = events.body_iterator  # type: ignore[attr-defined]
    assert b"event: state" in await anext(pieces)
    await pieces.aclose()
    state = await replica(asked("GET", "/v1/jobs/long%2Fone"))
    assert json.loads(await body_of(state))["state"] in {"queued", "running"}
    assert (await replica(asked("GET", "/nothing"))).status_code == 404
    assert (await replica(asked("DELETE", "/v1/jobs/long%2Fone"))).status_code == 200
    await replica.check_health()


async def tells_that_it_is_gone(replica: Replica) -> None:
    assert (await replica(asked("GET", "/health"))).status_code == 503
    with pytest.raises(RuntimeError, match="does not live"):
        await replica.check_health()


@pytest.mark.slow
def test_a_replica_passes_requests_on_to_its_node(tmp_path: Path) -> None:
    async def scenario() -> int:
        replica = Replica(["--data-dir", str(tmp_path), *FLAGS])
        try:
            await passes_on(replica)
            process = replica._process
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 60)
            await tells_that_it_is_gone(replica)
        finally:
            await replica._client.aclose()
            replica.__del__()
        return int(process.returncode)

    assert asyncio.run(scenario()) == 0


def test_a_node_that_cannot_start_is_told() -> None:
    with pytest.raises(RuntimeError, match="ended with code 2"):
        Replica(["--nonsense"])


def test_the_application_takes_two_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'ray\[serve\]'"):
        build({})


def test_the_node_hears_who_asked() -> None:
    """And nothing of the connection to Ray."""
    found = dict(_headers(asked("GET", "/")))
    assert found[b"x-forwarded-for"] == b"192.0.2.77"
    assert b"connection" not in found


@pytest.fixture
def ray_folder(tmp_path: Path) -> Path:
    """A virtual environment that has Ray, and what a replica imports."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pins = re.findall(r"^(?:httpx2|starlette|ray)==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    wanted = [pin.replace("ray==", "ray[serve]==") for pin in pins]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python.parent


@contextlib.contextmanager
def cluster(programs: Path, folder: Path, port: int) -> Iterator[None]:
    """Ray on this machine with deploy/ray/serve.yaml: two replicas, no GPU."""
    config = yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text("utf-8"))
    config["http_options"] |= {"host": LOOPBACK, "port": port}
    (application,) = config["applications"]
    application["args"] = {"flags": ["--data-dir", str(folder), *FLAGS], "python": sys.executable}
    (deployment,) = application["deployments"]
    deployment["ray_actor_options"] = {"num_cpus": 0.1}
    deployment["autoscaling_config"]["min_replicas"] = 2
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    env = kept | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "serve", "run", folder / "serve.yaml"], cwd=folder, env=env, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def nodes_below(folder: Path) -> dict[int, int]:
    """The nodes' maintenance ports by their process ids, as the command lines tell."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text().split("\0")
            if str(folder) in words and "--maintenance-port" in words:
                found[int(path.parent.name)] = int(words[words.index("--maintenance-port") + 1])
    return found


@pytest.mark.slow
@pytest.mark.skipif("REAL_RAY" not in os.environ, reason="set REAL_RAY=1: installs Ray, takes two minutes")
def test_ray_serves(ray_folder: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    base = f"http://{LOOPBACK}:{port}"

    def picture(seed: int) -> requests.Response:
        answers: list[requests.Response] = []

        def is_answered() -> bool:  # as a client does that repeats what was refused
            with contextlib.suppress(requests.ConnectionError):
                answers.append(request("POST", f"{base}/sdapi/v1/txt2img", json=BODY | {"seed": seed}))
            return bool(answers) and answers[-1].status_code != 503

        wait_until(is_answered)
        return answers[-1]

    with cluster(ray_folder, tmp_path, port), ThreadPoolExecutor(8) as pool:
        wait_until(lambda: len(nodes_below(tmp_path)) == 2)
        assert status_counts(list(pool.map(picture, range(24)))) == {200: 24}
        made = [
            request("GET", f"http://{LOOPBACK}:{one}/metrics").text for one in nodes_below(tmp_path).values()
        ]
        assert all(not re.search(r"^sdserver_images_total 0\.0$", text, re.M) for text in made)
        killed = min(nodes_below(tmp_path))
        os.kill(killed, signal.SIGKILL)
        assert status_counts(list(pool.map(picture, range(24, 48)))) == {200: 24}
        wait_until(lambda: len(set(nodes_below(tmp_path)) - {killed}) == 2)
    wait_until(lambda: not nodes_below(tmp_path))
