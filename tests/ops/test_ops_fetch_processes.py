"""Processes that die in the middle of a download, or want the same file at once."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patience import PATIENCE

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, threading
from pathlib import Path
from sdserver.ops.downloads.fetch import fetch
from sdserver.ops.downloads.limits import Limits
path = fetch([sys.argv[1]], Path(sys.argv[2]), sha256=None, tokens={"MODEL_URL_TOKEN": "s3cret"},
             progress=lambda p: None, cancelled=threading.Event(), limits=Limits(spare=0, poll=0.05))
print(path)
"""
SIZE = 400_000


def start(url: str, models: Path) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, url, str(models)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_bytes(models: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if any(p.stat().st_size >= count for p in (models / ".downloads").glob("*.part")):
            return
        time.sleep(0.01)
    raise AssertionError("the download did not start")


def test_a_killed_download_is_resumed(
    site: Any, file_type: Any, models: Path, safetensors: Callable[..., bytes]
) -> None:
    body = safetensors(SIZE)
    site.files["/m.safetensors"] = slow = file_type(body, pause=0.1)
    models.mkdir()
    first = start(site.url("/m.safetensors"), models)
    wait_for_bytes(models, 60_000)
    first.kill()
    first.communicate()
    assert not (models / "m.safetensors").exists()
    slow.pause = 0.0
    second = start(site.url("/m.safetensors"), models)
    out, err = second.communicate(timeout=PATIENCE)
    assert out.strip() == str(models / "m.safetensors"), err
    assert (models / "m.safetensors").read_bytes() == body
    assert [s.status for s in site.seen] == [200, 206]
    assert int(site.seen[1].headers["range"][6:-1]) >= 60_000
    assert "s3cret" not in out + err


def test_two_processes_fetch_once(
    site: Any, file_type: Any, models: Path, safetensors: Callable[..., bytes]
) -> None:
    body = safetensors(SIZE)
    site.files["/m.safetensors"] = file_type(body, pause=0.01)
    both = [start(site.url("/m.safetensors"), models) for _ in range(2)]
    results = [process.communicate(timeout=PATIENCE) for process in both]
    assert [out.strip() for out, _ in results] == [str(models / "m.safetensors")] * 2, results
    assert (models / "m.safetensors").read_bytes() == body
    assert [s.status for s in site.seen] == [200]
    assert not list((models / ".downloads").glob("*.owner"))
