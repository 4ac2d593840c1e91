"""Generated bad inputs over all routes: nothing fails, nothing is left behind, none costs much.

A sample here; `SDSERVER_SOAK_INPUTS=100000 .venv/bin/pytest -s tests/soak/test_soak_inputs.py` tries more,
`SDSERVER_SOAK_SEED=2` others.
"""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.soak.inputs import Route, bad_inputs, routes_of
from tests.soak.sending import AT_ONCE, Record, send_all, served

INPUTS = int(os.environ.get("SDSERVER_SOAK_INPUTS", "1500"))
SEED = int(os.environ.get("SDSERVER_SOAK_SEED", "1"))
GROWTH = 60_000_000
"""Bytes: what is remembered is bounded, and is full after the warm-up; the rest is the allocator's."""
DEAR = 6.0
"""CPU seconds that no input may cost: 2 are promised, a noisy machine counts more."""


@pytest.mark.timeout(0)
def test_bad_inputs_are_no_faults_and_leave_nothing_behind(tmp_path: Path) -> None:
    record = Record()
    with served(tmp_path) as server:
        routes: list[Route] = routes_of(json.loads(server.get("/openapi.json")))
        assert len(routes) > 60
        inputs = bad_inputs(SEED, routes)
        warm_up = INPUTS // 3
        asyncio.run(send_all(server, inputs, warm_up, record, print))
        files, threads, memory = server.files, server.threads, server.memory
        asyncio.run(send_all(server, inputs, INPUTS - warm_up, record, print))
        grown = server.memory - memory
        print(  # noqa: T201 - the figures of docs/reliability.md
            f"{INPUTS} inputs: {dict(sorted(record.statuses.items()))}; "
            f"memory {memory / 1e6:.0f} MB, grown {grown / 1e6:.1f} MB; files {files}, then {server.files}; "
            f"threads {threads}, then {server.threads}"
        )
        assert server.get("/health")
        assert server.process.poll() is None
        later = server.files, server.threads
    costs = server.costs
    print("slowest:", *record.slowest, sep="\n  ")  # noqa: T201
    seconds = f"{costs['billed']:.1f} CPU seconds of {costs['seconds']:.1f}"
    print(f"dearest, of all requests' {seconds}:", *costs["dearest"], sep="\n  ")  # noqa: T201
    assert all(record.statuses[expected] for expected in (200, 400, 404, 405, 422))
    assert grown < GROWTH
    assert later[0] <= files + AT_ONCE
    assert later[1] <= threads + AT_ONCE
    assert costs["billed"] > 0.2 * costs["seconds"]
    assert costs["dearest"][0][0] < DEAR
    log = (tmp_path / "stderr.log").read_text()
    assert "Traceback" not in log, log[-5000:]
