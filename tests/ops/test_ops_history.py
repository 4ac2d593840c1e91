"""The last hour, as points, and what those who use the server are told of the node."""

import asyncio
import json
import os
from dataclasses import dataclass
from typing import Any

import pytest
from patience import PATIENCE

from sdserver.engine.messages import BatchRan, Loaded, MemoryFacts
from sdserver.jobs.events import Failed, Finished, Picture
from sdserver.ops import history
from sdserver.ops.history import LENGTH, SECONDS, History, Memory, memory_used
from sdserver.ops.overview import COLUMNS, Overview
from sdserver.ops.state import Node

PICTURE = Picture(8, 8, b"x" * 192)


@dataclass
class Busy:
    running: int = 1
    waiting: int = 3
    capacity: int = 4
    eta_seconds: float = 12.4


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def recorded() -> tuple[History, Busy, Clock]:
    load, clock = Busy(), Clock()
    return History(load, lambda: Memory("device", 5, 10), clock), load, clock


def test_points_tell_what_happened_between_them() -> None:
    past, load, clock = recorded()
    for rows in (2, 4):
        past.observe(BatchRan("predict", rows, 0.1))
    past.observe(BatchRan("text", 9, 0.1))
    past.observe(Finished("a", PICTURE))
    past.observe(Finished("caption", Picture(0, 0, b"")))
    past.end_interval()
    load.waiting, clock.now = 0, 1005.0
    past.end_interval()
    first, second = past.since(0)
    assert (first.time, first.rows, first.running, first.waiting, first.memory) == (1000, 3, 1, 3, 5)
    assert first.images_per_minute == 60 / SECONDS
    assert (second.rows, second.waiting, second.images_per_minute) == (None, 0, 60 / SECONDS / 2)
    assert past.since(1000) == (second,)


def test_images_count_for_a_minute_and_points_for_an_hour() -> None:
    past, _, clock = recorded()
    past.observe(Finished("a", PICTURE))
    for _ in range(13):
        past.end_interval()
    rates = [point.images_per_minute for point in past.since(0)]
    assert rates[11] == 1
    assert rates[12] == 0
    for _ in range(LENGTH):
        clock.now += SECONDS
        past.end_interval()
    assert len(past.since(0)) == LENGTH
    assert LENGTH * SECONDS == 3600


def test_points_are_made_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SECONDS", 0.01)
    past, _, _ = recorded()

    async def record() -> None:
        task = asyncio.create_task(past.record())
        async with asyncio.timeout(PATIENCE):
            while len(past.since(0)) < 3:
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(record())


def test_memory_is_the_devices_else_the_processs() -> None:
    assert memory_used(MemoryFacts(4, 10, 1, 2), None) == Memory("device", 6, 10)
    own = memory_used(MemoryFacts(None, None, None, None), os.getpid())
    assert own is not None
    assert own.kind == "process"
    assert 10**6 < own.used < (own.total or 0)
    assert memory_used(None, None) is None
    assert memory_used(None, 2**30) is None


def test_the_overview_tells_no_path_and_no_job() -> None:
    past, load, _ = recorded()
    node = Node("1.0")
    overview = Overview(node, load, past, lambda: None)
    empty: Any = overview.fields(0)
    assert (empty["state"], empty["model"], empty["memory"]) == ("starting", None, None)
    node.enter("loading")
    node.observe(Loaded("/secret/place/x.safetensors", "sd1", "cpu", "float32", 1.5, 2))
    node.enter("ready")
    node.observe(Failed("job-of-ann", "OutOfMemory", "a prompt of ann's"))
    node.engine_restarted("The engine process ended with code -9; it is started again.")
    node.observe(Loaded("/secret/place/x.safetensors", "sd1", "cpu", "float32", 1.5, 2))
    past.end_interval()
    load.eta_seconds = float("nan")
    told: Any = overview.fields(0)
    text = json.dumps(told, allow_nan=False)
    assert "secret" not in text
    assert "ann" not in text
    assert told["model"]["file"] == "x.safetensors"
    assert (told["state"], told["engine"]["restarts"]) == ("restarting", 1)
    assert "code -9" in told["reason"]
    assert told["queue"] == {"running": 1, "waiting": 3, "capacity": 4, "eta_s": None}
    assert {len(told["history"][name]) for name in ("time", *COLUMNS)} == {1}
    assert {"sdserver", "python", "torch"} <= set(told["versions"])
    assert overview.fields(1000.0)["history"]["time"] == []  # type: ignore[index]
