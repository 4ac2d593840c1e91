"""Nodes that cannot start say why, on the maintenance port and on stdout, and end with an error."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from node import CHECKPOINT, LOOPBACK, Node, free_ports, running, wait_until

from tests.conformance.conftest import write_adapter

PAGE = b"<!DOCTYPE html><html><body>Please log in.</body></html>" + b" " * 2000
EXIT_FAILED, EXIT_USAGE = 3, 2


class Handler(BaseHTTPRequestHandler):
    """Answers 404, or a page where a file should be."""

    def do_GET(self) -> None:
        found = self.path == "/page.safetensors"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{LOOPBACK}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Failure:
    """What a node showed that could not start."""

    summary: dict[str, Any]
    startup: tuple[int, dict[str, Any]]
    live: int
    accepts: bool
    exit_code: int
    stdout: str


CASES = {
    "truncated": "truncated.safetensors",
    "adapter": "adapter.safetensors",
    "missing": "missing.safetensors",
    "none": "no checkpoint",
    "not found": "404",
    "page": "text/html",
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory, url: str) -> dict[str, Failure]:
    """Those that fail before their engine is needed, then the others: each stays a while to be asked."""
    files = tmp_path_factory.mktemp("files")
    (files / "truncated.safetensors").write_bytes(CHECKPOINT.read_bytes()[:1_000_000])
    write_adapter(files / "adapter.safetensors")
    early = {
        "missing": ("--ckpt", str(files / "missing.safetensors")),
        "none": (),
        "not found": ("--model_url", f"{url}/gone.safetensors"),
        "page": ("--model_url", f"{url}/page.safetensors"),
    }
    late = {
        "truncated": ("--ckpt", str(files / "truncated.safetensors")),
        "adapter": ("--ckpt", str(files / "adapter.safetensors")),
    }
    nodes: dict[str, Node] = {}
    seen: dict[str, Failure] = {}
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        for flags in (early, late):
            for name, given in flags.items():
                nodes[name] = stack.enter_context(running(tmp_path_factory.mktemp("failing"), *given))
            seen |= dict(zip(flags, pool.map(seen_of, [nodes[name] for name in flags]), strict=True))
        for name in late:
            nodes[name].signal(signal.SIGTERM)
        for name, node in nodes.items():
            seen[name].exit_code = node.exit_code()
            seen[name].stdout = node.stdout
    return seen


def seen_of(node: Node) -> Failure:
    node.wait_listening()
    wait_until(lambda: node.status()["state"] == "failed")
    startup = node.ops("/startup")
    return Failure(
        summary=node.ops("/").json(),
        startup=(startup.status_code, startup.json()),
        live=node.ops("/live").status_code,
        accepts=node.accepts,
        exit_code=0,
        stdout="",
    )


@pytest.mark.parametrize("name", CASES)
def test_a_node_that_cannot_start(failures: dict[str, Failure], name: str) -> None:
    failure = failures[name]
    reason = failure.summary["reason"]
    assert failure.summary["state"] == "failed"
    assert CASES[name] in reason
    assert failure.startup == (500, {"started": False, "phase": "failed", "reason": reason})
    assert failure.live == 503
    assert not failure.accepts
    assert f"\nStable diffusion model failed to load: {reason}\n" in failure.stdout
    assert failure.exit_code == EXIT_FAILED


@pytest.mark.parametrize("flag", ["--port", "--maintenance-port"])
def test_a_port_in_use(tmp_path: Path, flag: str) -> None:
    (port,) = free_ports(1)
    with socket.create_server((LOOPBACK, port)), running(tmp_path, flag, str(port)) as node:
        assert node.exit_code() == EXIT_USAGE
        wanted = f"Cannot listen on {LOOPBACK}:{port} (Address already in use); choose another {flag}."
        assert node.stderr == f"sdserver: {wanted}\n"
        assert node.stdout == ""


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with running(tmp_path, "--max-batch-rows", "none") as node:
        assert node.exit_code() == EXIT_USAGE
        assert node.stderr.count("\n") == 1
        assert "--max-batch-rows" in node.stderr
