"""A real node that uploads to a real store through a network that breaks."""

import hashlib
import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from fault_proxy import FaultProxy, Faults, fault_proxy
from node import CHECKPOINT, LOOPBACK, Node, running, wait_until
from object_stores import BUCKET, ObjectStore, moto
from patience import PATIENCE

SMALL = {"steps": 1, "width": 64, "height": 64, "save_images": True}


@pytest.fixture(scope="module")
def real() -> Iterator[ObjectStore]:
    with moto() as found:
        yield found


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    shutil.copy(CHECKPOINT, folder)
    return tmp_path


def saved(data_dir: Path) -> set[str]:
    """Hashes of the pictures on the disk."""
    files = [path for path in (data_dir / "outputs").rglob("*") if path.is_file()]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def uploaded(real: ObjectStore, prefix: str) -> set[str]:
    """Hashes of the objects in the store."""
    return {hashlib.sha256(data).hexdigest() for data in real.objects(prefix).values()}


def flags(prefix: str) -> tuple[str, str]:
    return "--upload-url", f"s3://{BUCKET}/{prefix}"


def test_killed_in_mid_upload_objects_are_the_pictures(real: ObjectStore, data_dir: Path) -> None:
    with fault_proxy(real.port, Faults(silent=True)) as proxy:
        environ = real.environ(proxy.port)
        with running(data_dir, *flags("killed"), environ=environ) as node:
            node.wait_ready()
            for seed in range(8):
                node.txt2img(seed=seed, **SMALL)
            assert node.metric("sdserver_upload_spool_files") == 8
            proxy.faults = Faults(bandwidth=4000, slice=1000)
            wait_until(lambda: node.metric("sdserver_upload_total", result="stored") >= 1)
            assert node.metric("sdserver_upload_spool_files") >= 1
            node.signal(signal.SIGKILL)
            assert node.exit_code() == -signal.SIGKILL
        left = list((data_dir / ".cache" / "uploads").iterdir())
        assert len(saved(data_dir)) == 8
        assert left
        proxy.faults = Faults()
        with running(data_dir, *flags("killed"), environ=environ) as node:
            node.wait_listening()
            wait_until(lambda: (node.status()["uploads"] or {"files": 1})["files"] == 0)
            assert node.metric("sdserver_upload_total", result="stored") >= len(left)
    assert uploaded(real, "killed") == saved(data_dir)
    assert len(real.objects("killed")) == 8


def test_a_store_that_is_away_costs_no_answer_and_no_picture(real: ObjectStore, data_dir: Path) -> None:
    with fault_proxy(real.port, Faults(down=True)) as proxy:
        with running(data_dir, *flags("away"), environ=real.environ(proxy.port)) as node:
            node.wait_ready()
            for seed in range(4):
                node.txt2img(seed=seed, **SMALL)
            wait_until(lambda: node.metric("sdserver_upload_total", result="unreachable") >= 2)
            check_status(node)
            secrets_stay_in(node, real)
            started = time.monotonic()
            response = node.api("POST", "/sdapi/v1/txt2img", json=SMALL | {"seed": 9, "prompt": "x"})
            assert response.status_code == 200
            assert "X-Upload-Error" not in response.headers
            assert time.monotonic() - started < 60
            proxy.faults = Faults(reset=True, cut_after=3000)
            node.txt2img(seed=10, **SMALL)
            node.signal(signal.SIGTERM)
            wait_until(lambda: "Uploading what waits" in node.stdout)
            proxy.faults = Faults()
            assert node.exit_code() == 0
        text = node.stdout + node.stderr
        assert real.secret not in text
        assert real.key not in text
        assert "it waits: The store cannot be reached" in text
    assert uploaded(real, "away") == saved(data_dir)
    assert len(saved(data_dir)) == 6


def check_status(node: Node) -> None:
    uploads = node.status()["uploads"]
    assert uploads["to"] == f"s3://{BUCKET}/away"
    assert uploads["files"] == 4
    waiting = list((node.data_dir / ".cache" / "uploads").iterdir())
    assert uploads["bytes"] == sum(path.stat().st_size for path in waiting)
    assert uploads["error"] == "The store cannot be reached; check its address and the network."
    assert uploads["results"]["unreachable"] >= 2
    assert node.metric("sdserver_upload_spool_files") == 4
    assert node.metric("sdserver_upload_spool_bytes") == uploads["bytes"]
    assert node.metric("sdserver_upload_spool_oldest_seconds") > 0
    assert re.search(r'sdserver_model_info{[^}]*sha256="[0-9a-f]{64}"', node.ops("/metrics").text)
    assert "4 waiting: The store cannot be reached" in node.ops("/?format=html").text
    assert node.status()["state"] == "ready"
    assert node.ops("/ready").status_code == 200


def secrets_stay_in(node: Node, real: ObjectStore) -> None:
    told = [node.ops(path).text for path in ("/", "/status", "/metrics", "/load")]
    paths = ("/sdapi/v1/cmd-flags", "/sdapi/v1/options", "/internal/sysinfo")
    told += [node.api("GET", path).text for path in paths]
    for text in told:
        assert real.secret not in text
        assert json.dumps(real.secret) not in text
        assert real.key not in text


@pytest.mark.parametrize(
    ("url", "environ", "said"),
    [
        ("ftp://host/", {}, "--upload-url"),
        ("https://user:canary@host/", {}, "--upload-url"),
        ("http://10.0.0.1/", {"UPLOAD_URL_TOKEN": "canary"}, "in clear"),
    ],
)
def test_what_cannot_work_ends_the_start(
    data_dir: Path, url: str, environ: dict[str, str], said: str
) -> None:
    with running(data_dir, "--upload-url", url, environ=environ) as node:
        assert node.exit_code() == 2
    assert said in node.stderr
    assert node.stderr.count("\n") == 1
    assert "canary" not in node.stderr + node.stdout


def test_the_proxy_is_what_was_measured(real: ObjectStore) -> None:
    """A proxy that lets everything through would make the tests above prove nothing."""
    with fault_proxy(real.port) as proxy:
        assert reaches(proxy)
        proxy.faults = Faults(down=True)
        assert not reaches(proxy)
        proxy.faults = Faults(cut_answer_after=4)
        assert not reaches(proxy)


def reaches(proxy: FaultProxy) -> bool:
    try:
        return requests.get(f"http://{LOOPBACK}:{proxy.port}/moto-api/", timeout=PATIENCE).ok
    except requests.ConnectionError:
        return False
