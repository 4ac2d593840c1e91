"""The node's start: what its ports say, and when."""

import re

import pytest
from node import CHECKPOINT, Node

from tests.conformance.conftest import OPS_PATHS, Boot, Tell

LOADED_MACHINE = 60.0  # seconds; an idle one needs less than one, and the figure is told


def test_the_maintenance_port_answers_at_once(boot: Boot, tell: Tell) -> None:
    tell(f"maintenance port after {boot.listening_after:.2f} s, ready after {boot.ready_after:.1f} s")
    assert boot.listening_after < LOADED_MACHINE


def test_paths_of_the_maintenance_port_before_the_node_is_ready(boot: Boot) -> None:
    ok, not_yet = ("/", "/live", "/status", "/metrics", "/load"), ("/ready", "/startup", "/health")
    assert boot.early == dict.fromkeys(ok, 200) | dict.fromkeys(not_yet, 503)


def test_the_api_port_refuses_until_the_node_is_ready(boot: Boot) -> None:
    *before, last = boot.polls
    assert last.accepts
    assert not before[0].loaded
    assert all(poll.loaded for poll in boot.polls if poll.accepts), boot.polls
    assert sum(not poll.accepts for poll in before) > 3
    assert {poll.phase for poll in before} <= {"starting", "downloading", "loading"}


def test_a_path_as_model_url_is_used_where_it_is(node: Node) -> None:
    (model,) = [
        model
        for model in node.api("GET", "/sdapi/v1/sd-models").json()
        if model["model_name"] == CHECKPOINT.stem
    ]
    assert model["filename"] == str(node.data_dir / "models" / "Stable-diffusion" / CHECKPOINT.name)
    assert node.status()["download"] is None
    assert "Downloading" not in node.stdout


def test_lines_that_launchers_wait_for(boot: Boot) -> None:
    node = boot.node
    assert re.search(r"^Model loaded in \d+\.\ds \(tiny-sd15\.safetensors, cpu, ", node.stdout, re.MULTILINE)
    assert f"Ready: http://localhost:{node.port}\n" in node.stdout
    assert boot.stderr == ""


@pytest.mark.parametrize("path", OPS_PATHS)
def test_maintenance_paths(node: Node, path: str) -> None:
    full, head = node.ops(path), node.ops(path, "HEAD")
    assert (full.status_code, head.status_code) == (200, 200)
    assert full.content
    assert not head.content
    assert head.headers["content-type"] == full.headers["content-type"]


def test_what_the_maintenance_port_tells(node: Node) -> None:
    assert node.ops("/startup").json() == {"started": True, "phase": "ready"}
    assert node.ops("/health").json() == {"status": "ok"}
    assert node.ops("/").json()["model"] == "tiny-sd15.safetensors"
    assert node.status()["model"]["family"] == "sd1"
    assert "<title>sdserver: ready</title>" in node.ops("/", headers={"Accept": "text/html"}).text
    assert node.metric("sdserver_ready") == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("HEAD", "/"), ("GET", "/internal/ping"), ("GET", "/health"), ("HEAD", "/health")],
)
def test_probes_of_the_api_port(node: Node, method: str, path: str) -> None:
    assert node.api(method, path).status_code == 200
