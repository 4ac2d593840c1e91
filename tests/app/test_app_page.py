"""What the page asks of a real node: its status, the order of its queue, models by address."""

import functools
import hashlib
import http.server
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node import CHECKPOINT, LOOPBACK, Node, running, wait_until

KEY = "an-operators-key-for-tests"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    flags = ("--checkpoint", str(CHECKPOINT), "--admin-key", KEY, "--max-running", "1")
    with running(tmp_path_factory.mktemp("node"), *flags) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of files on loopback: a private host, as an operator may have one."""
    folder = tmp_path_factory.mktemp("models")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{LOOPBACK}:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def safetensors(values: int) -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * values)


def operate(node: Node, method: str, path: str = "", **more: Any) -> Any:
    return node.api(method, f"/v1/models/downloads{path}", headers={"X-Admin-Key": KEY}, **more)


def ended(node: Node) -> dict[str, Any]:
    def newest() -> dict[str, Any]:
        found: dict[str, Any] = operate(node, "GET").json()["downloads"][0]
        return found

    wait_until(lambda: newest()["state"] != "running")
    return newest()


def test_models_come_into_the_folder_of_their_kind(node: Node, models: tuple[str, Path]) -> None:
    address, folder = models
    content = safetensors(300_000)
    for kind, place in (("lora", "Lora"), ("vae", "VAE"), ("embedding", "embeddings")):
        (folder / f"new-{kind}.safetensors").write_bytes(content)
        body = {
            "url": f"{address}/new-{kind}.safetensors?token=secret",
            "kind": kind,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        assert operate(node, "POST", json=body).status_code == 202
        told = ended(node)
        assert (told["state"], told["error"], told["file"]) == ("completed", None, f"new-{kind}.safetensors")
        assert (node.data_dir / "models" / place / f"new-{kind}.safetensors").read_bytes() == content
    files = node.api("GET", "/v1/model-files").json()
    assert [one["name"] for one in files["loras"]] == ["new-lora"]
    assert [one["name"] for one in files["vaes"]] == ["new-vae.safetensors"]
    assert "secret" not in operate(node, "GET").text + node.stdout + node.stderr


def test_what_cannot_be_used_says_why(node: Node, models: tuple[str, Path]) -> None:
    address, folder = models
    (folder / "page.safetensors").write_bytes(b"<html>" + b" " * 2000)
    (folder / "other.safetensors").write_bytes(safetensors(10))
    for name, sha256, why in (
        ("page.safetensors", "", "web page"),
        ("other.safetensors", "0" * 64, "sha256"),
        ("none.safetensors", "", "404"),
    ):
        operate(node, "POST", json={"url": f"{address}/{name}", "kind": "lora", "sha256": sha256})
        told = ended(node)
        assert told["state"] == "failed"
        assert why in told["error"]
    assert [one["name"] for one in node.api("GET", "/v1/model-files").json()["loras"]] == ["new-lora"]


def test_the_status_has_points_within_seconds(node: Node) -> None:
    status = node.api("GET", "/v1/status").json()
    assert status["state"] == "ready"
    assert status["model"]["file"] == CHECKPOINT.name
    assert status["memory"]["used"] > 10**6
    assert str(node.data_dir) not in json.dumps(status)
    wait_until(lambda: len(node.api("GET", "/v1/status").json()["history"]["time"]) > 1)
    times = node.api("GET", "/v1/status").json()["history"]["time"]
    later = node.api("GET", f"/v1/status?since={times[0]}").json()["history"]["time"]
    assert later[: len(times) - 1] == times[1:]


def test_a_job_that_is_moved_is_made_first(node: Node) -> None:
    names = ["long", *(f"wait-{k}" for k in range(4))]
    side, steps = 768, 150
    for name in names:
        body = {"kind": "txt2img", "width": side, "height": side, "steps": steps, "force_task_id": name}
        answer = node.api("POST", "/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text + node.stderr[-3000:]
    waiting = [job["id"] for job in node.api("GET", "/v1/jobs?state=queued").json()["jobs"]][::-1]
    assert waiting == names[1:]
    last = waiting[-1]
    assert node.api("POST", f"/v1/jobs/{last}/move", json={"to": 1}).json()["queue_position"] == 1
    others = set(waiting) - {last}

    def state(name: str) -> str:
        return str(node.api("GET", f"/v1/jobs/{name}?result=false").json()["state"])

    for name in set(names) - set(waiting):
        node.api("DELETE", f"/v1/jobs/{name}")
    wait_until(lambda: state(last) == "running")
    began = {name: node.api("GET", f"/v1/jobs/{name}?result=false").json()["started"] for name in others}
    mine = node.api("GET", f"/v1/jobs/{last}?result=false").json()["started"]
    assert all(start is None or start >= mine for start in began.values())
    for name in waiting:
        node.api("DELETE", f"/v1/jobs/{name}")
    wait_until(lambda: {state(name) for name in names} == {"cancelled"})
