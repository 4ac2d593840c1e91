"""Several devices behind one front: their settings, and a real node that loses one of its engines."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from node import CHECKPOINT, Child, Node, children, running, wait_until

from sdserver.app import devices
from sdserver.app.devices import one_per_device
from sdserver.engine.config import EngineConfig

CONFIG = EngineConfig("auto", "fp32", "sdpa", 0, 4, 4, False, False, 1, "warning")


def test_without_devices_there_is_one_engine_as_given() -> None:
    assert one_per_device(CONFIG, ()) == (CONFIG,)


def test_engines_on_the_processor_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cores", lambda: 9)
    engines = one_per_device(CONFIG, ("cpu", "cuda:1", "cpu"))
    assert [(one.device, one.threads) for one in engines] == [("cpu", 4), ("cuda:1", 0), ("cpu", 4)]
    assert [one.threads for one in one_per_device(CONFIG, ("cpu", "cuda:0"))] == [0, 0], "it is measured"
    many = one_per_device(CONFIG, 20 * ["cpu"])
    assert {one.threads for one in many} == {1}


def engines(node: Node) -> list[Child]:
    return sorted(
        (one for one in children(node.process.pid) if "spawn_main" in one.command), key=lambda one: one.pid
    )


def states(node: Node) -> list[str]:
    return [device["state"] for device in node.status()["devices"]]


def loaded(node: Node) -> list[Any]:
    return [device["images"] for device in node.status()["devices"]]


@pytest.mark.slow
def test_two_engines_share_the_work_and_one_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    (folder / "tiny.safetensors").symlink_to(CHECKPOINT)
    flags = ("--devices", "cpu,cpu", "--max-running", "2", "--max-batch-rows", "4", "--deterministic")
    with running(tmp_path, *flags) as node, ThreadPoolExecutor(8) as pool:
        node.wait_ready()
        wait_until(lambda: states(node) == ["ready", "ready"])
        assert len(engines(node)) == 2
        alone = [node.txt2img(seed=seed, steps=8).images for seed in range(2)]

        def ask(seed: int) -> list[str]:
            return node.txt2img(seed=seed % 2, steps=8).images

        assert list(pool.map(ask, range(8))) == 4 * alone
        assert min(before := loaded(node)) >= 2, before

        under_way = pool.map(lambda seed: node.txt2img(seed=seed % 2, steps=40).images, range(8))
        wait_until(lambda: all(device["running"] for device in node.status()["devices"]))
        os.kill(engines(node)[0].pid, signal.SIGKILL)
        wait_until(lambda: "restarting" in states(node))
        assert node.status()["state"] == "ready", "the other serves"
        assert node.status()["degraded"]
        assert node.ops("/ready").status_code == 200
        answers = list(under_way)
        assert answers == 4 * answers[:2], "the same pictures, whichever engine made them"
        wait_until(lambda: states(node) == ["ready", "ready"])
        assert not node.status()["degraded"]
        restarts = [device["restarts"] for device in node.status()["devices"]]
        assert sorted(restarts) == [0, 1]
        names = ("cpu/0", "cpu/1")
        assert [node.metric("sdserver_device_restarts_total", device=name) for name in names] == restarts
        assert sum(node.metric("sdserver_device_images_total", device=name) for name in names) == 18
        assert [node.metric("sdserver_device_ready", device=name) for name in names] == [1, 1]
