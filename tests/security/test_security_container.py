"""A node as a strict container runs it: read-only root, no rights, a user whom nobody knows, no home.

Its environment is full of secrets, none of which may be found anywhere.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from node import CHECKPOINT, LOOPBACK, ROOT, children, free_ports, request, wait_until
from patience import PATIENCE
from PIL import Image

STRANGER = 54_321
CANARY = "canary-8d2f61"
SECRETS = {
    "AWS_ACCESS_KEY_ID": f"{CANARY}-1",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-2",
    "HF_TOKEN": f"{CANARY}-3",
    "CIVITAI_TOKEN": f"{CANARY}-4",
    "MODEL_URL_TOKEN": f"{CANARY}-5",
    "SDSERVER_ADMIN_KEY": f"{CANARY}-6-long-enough",
    "SDSERVER_API_AUTH": f"user:{CANARY}-7",
    "SOMEBODYS_PASSWORD": f"{CANARY}-8",
    "HTTPS_PROXY": f"http://me:{CANARY}-9@127.0.0.1:9",
}
USER = ("user", f"{CANARY}-7")
SANDBOX = [
    *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc"),
    *("--tmpfs", "/tmp", "--unshare-user", "--uid", str(STRANGER), "--gid", "0", "--cap-drop", "ALL"),  # noqa: S108
    *("--die-with-parent", "--new-session"),
]


@dataclass(frozen=True)
class Contained:
    """A node that takes requests.

    Attributes:
        pid: of its front.
        engine: of its engine.
        url: of the API.
        ops: of the maintenance port.
        data: the one folder that it may write.
        log: what it said.
    """

    pid: int
    engine: int
    url: str
    ops: str
    data: Path
    log: Path

    def post(self, route: str, body: object, **arguments: Any) -> Any:
        arguments = {"auth": USER} | arguments
        return request("POST", f"{self.url}/sdapi/v1/{route}", json=body, **arguments)


def why_not() -> str:
    """Why there can be no such container here, empty if there can be."""
    if not shutil.which("bwrap"):
        return "bwrap is not installed (Debian: bubblewrap)"
    tried = subprocess.run([*SANDBOX, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() and f"bwrap may not make a container here: {tried.stderr.strip()}"


@contextmanager
def contained(data: Path) -> Iterator[Contained]:
    port, maintenance = free_ports(2)
    environ = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    environ |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"} | SECRETS
    command = [
        *(*SANDBOX, "--bind", str(data), str(data), "--chdir", str(data)),
        *(sys.executable, "-m", "sdserver", "--data-dir", str(data), "--threads", "1"),
        *("--port", str(port), "--maintenance-port", str(maintenance), "--log-level", "debug"),
    ]
    log = data.parent / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    ops = f"http://{LOOPBACK}:{maintenance}"

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return request("GET", f"{ops}/ready").status_code == 200
        except OSError:
            return False

    try:
        wait_until(is_ready)
        (front,) = children(process.pid)
        engine = next(each for each in children(front.pid) if "spawn_main" in each.command)
        yield Contained(front.pid, engine.pid, f"http://{LOOPBACK}:{port}", ops, data, log)
        os.kill(front.pid, 15)
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contained]:
    if reason := why_not():
        pytest.skip(reason)
    data = tmp_path_factory.mktemp("contained") / "data"
    (data / "models/Stable-diffusion").mkdir(parents=True)
    shutil.copy(CHECKPOINT, data / "models/Stable-diffusion")
    with contained(data) as running:
        yield running


def environment(pid: int) -> bytes:
    """What the system keeps of a process's environment."""
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.slow
def test_pictures_are_made_and_saved_with_a_read_only_root(node: Contained) -> None:
    body = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64, "save_images": True}
    answer = node.post("txt2img", body)
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))
    assert picture.size == (64, 64)
    assert len(list(node.data.rglob("outputs/txt2img-images/*/*.png"))) == 1
    assert node.post("options", {"jpeg_quality": 81}).status_code == 200
    assert json.loads((node.data / "config.json").read_text())["jpeg_quality"] == 81
    assert "HOME=" not in environment(node.pid).decode()
    status = Path(f"/proc/{node.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    for folder in ("", "etc", "usr", "dev/shm", "root"):
        mounted = os.statvfs(Path("/proc", str(node.pid), "root", folder))
        assert mounted.f_flag & os.ST_RDONLY, folder


@pytest.mark.slow
def test_nothing_is_left_in_tmp_and_nothing_failed_to_be_written(node: Contained) -> None:
    root = Path(f"/proc/{node.pid}/root")
    left = [name for name in _files(root / "tmp") if not name.startswith(f"{root}{node.data}/")]
    assert left == []
    log = node.log.read_text()
    assert not any(word in log for word in ("Read-only", "Permission", "EROFS", "Traceback")), log


@pytest.mark.slow
def test_an_engine_holds_no_secret(node: Contained) -> None:
    assert environment(node.pid).count(CANARY.encode()) == len(SECRETS), "the measure measures"
    assert CANARY.encode() not in environment(node.engine)


@pytest.mark.slow
def test_no_secret_is_told_anywhere(node: Contained) -> None:
    said = []
    for auth in (None, USER, ("user", "wrong")):
        for body in ({}, {"steps": "x"}, {"sampler_name": "none"}, {"steps": 1, "width": 64, "height": 64}):
            said.append(node.post("txt2img", body | {"width": 64, "height": 64, "steps": 1}, auth=auth))
            said.append(node.post("txt2img", body | {"steps": "many"}, auth=auth))
        said.append(node.post("img2img", {"init_images": ["http://169.254.169.254/"]}, auth=auth))
        said.append(node.post("options", {"sd_model_checkpoint": "none"}, auth=auth))
        for path in ("/sdapi/v1/options", "/sdapi/v1/cmd-flags", "/internal/sysinfo", "/", "/openapi.json"):
            said.append(request("GET", node.url + path, auth=auth))
    for path in ("/", "/status", "/metrics", "/load", "/logs", "/none", "/config", "/debug"):
        said.append(request("GET", node.ops + path))
    for path in ("/drain", "/cancel", "/restart"):
        said.append(request("POST", node.ops + path, headers={"Authorization": "Bearer wrong"}))
    assert {answer.status_code for answer in said} >= {200, 401, 404, 422}
    for answer in said:
        for part in (answer.text, str(answer.headers), _texts(answer)):
            assert CANARY not in part, (answer.request.url, part[:500])
    assert CANARY not in node.log.read_text()
    for file in filter(Path.is_file, node.data.rglob("*")):
        assert CANARY.encode() not in file.read_bytes(), file


def _texts(answer: Any) -> str:
    """What stands in the pictures of an answer."""
    try:
        images = answer.json()["images"]
    except (ValueError, KeyError, TypeError):
        return ""
    return "".join(base64.b64decode(image).decode("latin-1") for image in images)


def _files(root: Path) -> list[str]:
    return [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]  # noqa: PTH118
