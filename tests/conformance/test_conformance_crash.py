"""The engine process is killed while it works."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from node import Node, wait_until

from tests.conformance.conftest import Tell, difference

JOBS: list[dict[str, Any]] = [
    {"seed": 21, "steps": 12, "sampler_name": "Euler a"},
    {"seed": 22, "steps": 10, "sampler_name": "DPM++ 2M SDE"},
    {"seed": 23, "steps": 6, "sampler_name": "Heun", "batch_size": 2},
]


def test_a_killed_engine_costs_nobody_a_picture(node: Node, tell: Tell) -> None:
    undisturbed = [node.txt2img(**fields).images for fields in JOBS]
    restarts = node.metric("sdserver_worker_restarts_total", reason="crash")
    steps = node.metric("sdserver_steps_total")
    victim = node.engine
    assert victim is not None
    with ThreadPoolExecutor(len(JOBS)) as pool:
        futures = [pool.submit(partial(node.txt2img, **fields)) for fields in JOBS]
        node.wait_running(len(JOBS))
        wait_until(lambda: node.metric("sdserver_steps_total") >= steps + 8)
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(lambda: node.status()["state"] == "restarting")
        assert node.ops("/live").status_code == 200
        assert node.ops("/ready").status_code == 503
        answers = [future.result() for future in futures]
    apart = [
        difference(ours, theirs)
        for answer, images in zip(answers, undisturbed, strict=True)
        for ours, theirs in zip(answer.images, images, strict=True)
    ]
    tell(f"greatest difference after a killed engine: {[greatest for greatest, _ in apart]}")
    assert max(share for _, share in apart) <= 0.001
    assert node.metric("sdserver_worker_restarts_total", reason="crash") == restarts + 1
    status = node.status()
    assert [entry["state"] for entry in status["history"]][-2:] == ["restarting", "ready"]
    assert status["history"][-2]["reason"].startswith("The engine process ended with code -9")
    assert node.engine not in (None, victim)
