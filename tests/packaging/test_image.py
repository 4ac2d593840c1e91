"""The Dockerfile, as far as it can be replayed without a container engine."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sdserver.settings.load import load

ROOT = Path(__file__).resolve().parents[2]
TEXT = re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text("utf-8"))
STEPS = [line.partition(" ")[::2] for line in TEXT.splitlines() if line and not line.startswith("#")]


def steps(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def in_context(name: str) -> bool:
    """Whether .dockerignore lets this path of the tree into the build: the last rule that matches decides."""
    kept = True
    for rule in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = rule.lstrip("!").removeprefix("**/")
        parts = [name, *(str(parent) for parent in Path(name).parents)]
        tails = [Path(name).name, *Path(name).parts] if "**/" in rule else []
        depth = [part for part in parts if part.count("/") == pattern.count("/")]
        if rule and not rule.startswith("#") and any(fnmatch(part, pattern) for part in [*depth, *tails]):
            kept = rule.startswith("!")
    return kept


def test_facts() -> None:
    assert steps("WORKDIR") == ["/usr/src/app"]
    assert steps("EXPOSE") == ["8000 8001"]
    assert steps("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(steps("ENTRYPOINT")[0]) == ["./start.sh"]
    assert not steps("VOLUME")
    assert int(steps("USER")[0].partition(":")[0]) > 0


def test_every_file_copied_exists_and_is_let_in() -> None:
    for rest in steps("COPY"):
        for source in shlex.split(rest)[:-1]:
            assert (ROOT / source).exists(), source
            assert in_context(source.rstrip("/")), source


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("sdserver/api/server.py", True),
        ("sdserver/bundle/data/clip_merges.txt.gz", True),
        ("models/Stable-diffusion/demo.safetensors", True),
        ("models/Lora/.gitkeep", True),
        ("models/README.md", True),
        ("models/Stable-diffusion/private.safetensors", False),
        ("outputs/txt2img-images", False),
        ("sdserver/api/__pycache__", False),
        (".venv", False),
        (".git", False),
        ("config.toml", False),
        ("tests", False),
    ],
)
def test_context(name: str, kept: bool) -> None:
    assert in_context(name) is kept


def test_run_steps_leave_a_tree_that_listens(tmp_path: Path) -> None:
    """Replays COPY and RUN, but for the installation, which test_start covers."""
    for step, rest in STEPS:
        if step == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                copy(ROOT / source, tmp_path / target)
        elif step == "RUN" and "bootstrap.py install" not in rest:
            command = rest.replace("python ", f"{sys.executable} ")
            subprocess.run(["/bin/sh", "-ec", command], cwd=tmp_path, check=True)
    found = load([], {}, cwd=tmp_path, root=tmp_path)
    assert (found.host, found.maintenance_host) == ("0.0.0.0", "0.0.0.0")
    assert found.data_dir == tmp_path
    assert load([], {"SDSERVER_LISTEN": "false"}, cwd=tmp_path, root=tmp_path).host == "127.0.0.1"
    for name in ("output", "outputs", "models/Stable-diffusion"):
        assert (tmp_path / name).stat().st_mode & 0o002
    assert not (tmp_path / "sdserver" / "settings").stat().st_mode & 0o002
    assert (tmp_path / "start.sh").stat().st_mode & 0o111
    assert "bootstrap.py install $EXTRAS" in TEXT


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    else:
        shutil.copy(source, target)


@contextmanager
def answering(port: int, status: int) -> Iterator[None]:
    """A maintenance port that answers GET /live so, and anything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/live" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_health_check_asks_the_maintenance_port(unused_port: int) -> None:
    words = json.loads(steps("HEALTHCHECK")[0].partition("CMD ")[2])
    env = {"SDSERVER_MAINTENANCE_PORT": str(unused_port)}
    command = [sys.executable, *words[1:]]
    assert words[0] == "python"
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == 1
    for status, expected in ((200, 0), (503, 1)):
        with answering(unused_port, status):
            assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == expected
