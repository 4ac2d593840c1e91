"""Leaving service: who is told when, what is refused when, and what is finished."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from patience import PATIENCE
from steady import run_steadily

from sdserver.api.door import Door, HangUp
from sdserver.app import draining as module
from sdserver.app.draining import Draining
from sdserver.engine.messages import Loaded
from sdserver.errors import NotReady
from sdserver.ops.state import Node


class Request:
    """An accepted request that ends when it is told to, or is stopped so."""

    def __init__(self, board: "Board", obeys: str = "interrupt") -> None:
        self._board = board
        self._obeys = obeys
        self.stops: list[str] = []

    def stop(self, mode: str) -> None:
        self.stops.append(mode)
        if mode in (self._obeys, "drop"):
            self._board.end(self)


class Board:
    def __init__(self) -> None:
        self.changes = 0
        self.requests: list[Any] = []
        self._changed = asyncio.Event()

    def active(self) -> tuple[Any, ...]:
        return tuple(self.requests)

    def find(self, _: str) -> None:
        return None

    async def changed(self, since: int) -> int:
        while self.changes == since:
            await self._changed.wait()
            self._changed.clear()
        return self.changes

    def end(self, request: Request) -> None:
        self.requests.remove(request)
        self.changes += 1
        self._changed.set()


class Rig:
    def __init__(self, delay: float = 0.05) -> None:
        self.now = 1000.0
        clock: Callable[[], float] = lambda: self.now  # noqa: E731 - given to three
        self.node = Node("1", clock)
        for phase in ("loading", "ready"):
            self.node.enter(phase)  # type: ignore[arg-type]
        self.node.observe(Loaded("/m", "sd1", "cpu", "float32", 1.0))
        self.door = Door(clock)
        self.board = Board()
        self.door.requests = self.board
        self.draining = Draining(self.node, self.door, delay, clock)

    def state(self) -> tuple[str, bool, bool]:
        return self.node.phase, self.door.is_leaving, self.door.is_shut


def scenario(test: Callable[[Rig], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await asyncio.wait_for(test(Rig()), PATIENCE)

        run_steadily(main())

    run.__name__ = test.__name__
    return run


OPEN, LEAVING, SHUT = ("ready", False, False), ("draining", True, False), ("draining", True, True)


@scenario
async def test_who_asks_is_told_before_anything_is_refused(rig: Rig) -> None:
    assert rig.state() == OPEN
    rig.node.probed()
    leaves = asyncio.create_task(rig.draining.refuse("why", at_once=False))
    await asyncio.sleep(0.01)
    assert rig.state() == LEAVING
    rig.door.enter()
    await leaves
    assert rig.state() == SHUT
    with pytest.raises(NotReady) as refusal:
        rig.door.enter()
    assert refusal.value.retry_after > 0


@scenario
async def test_nobody_is_waited_for_where_nobody_asks(rig: Rig) -> None:
    rig.draining = Draining(rig.node, rig.door, 1000, lambda: rig.now)
    rig.door.probed()
    rig.now += module.PROBED_SECONDS
    async with asyncio.timeout(PATIENCE):
        await rig.draining.refuse("why", at_once=False)
    assert rig.state() == SHUT


@scenario
async def test_who_is_in_a_hurry_waits_for_nobody(rig: Rig) -> None:
    rig.draining = Draining(rig.node, rig.door, 1000, lambda: rig.now)
    rig.door.probed()
    async with asyncio.timeout(PATIENCE):
        await rig.draining.refuse("why", at_once=True)
    assert rig.state() == SHUT


@scenario
async def test_draining_is_taken_back(rig: Rig) -> None:
    assert not rig.draining.take_back()
    rig.door.probed()
    rig.draining.begin()
    assert rig.state() == LEAVING
    assert rig.draining.take_back()
    await asyncio.sleep(0.1)
    assert rig.state() == OPEN, "what was to come does not come"
    rig.draining.begin()
    await asyncio.sleep(0.1)
    assert rig.state() == SHUT
    assert rig.draining.take_back()
    assert rig.state() == OPEN
    rig.draining.begin()
    rig.node.engine_restarted("it died")
    assert rig.draining.take_back()
    assert rig.node.phase == "restarting", "what the engine held is gone"


@scenario
async def test_what_was_accepted_is_finished(rig: Rig) -> None:
    requests = [Request(rig.board) for _ in range(3)]
    rig.board.requests += requests
    finishes = asyncio.create_task(rig.draining.finish(20))
    for request in requests:
        await asyncio.sleep(0.01)
        assert not finishes.done()
        rig.board.end(request)
    await finishes
    assert [request.stops for request in requests] == [[], [], []]


@scenario
async def test_what_takes_too_long_is_interrupted_and_then_dropped(rig: Rig) -> None:
    quick, stubborn = Request(rig.board), Request(rig.board, obeys="nothing")
    rig.board.requests += [quick, stubborn]
    module_seconds = module.INTERRUPT_SECONDS
    try:
        module.INTERRUPT_SECONDS = 0.05  # type: ignore[misc]
        await rig.draining.finish(0.05)
    finally:
        module.INTERRUPT_SECONDS = module_seconds  # type: ignore[misc]
    assert quick.stops == ["interrupt"]
    assert stubborn.stops == ["interrupt", "drop"]


@scenario
async def test_an_operator_may_set_a_time(rig: Rig) -> None:
    patient, hurried = Request(rig.board), Request(rig.board)
    rig.board.requests = [patient]
    rig.draining.begin()
    await asyncio.sleep(0.15)
    assert patient.stops == []
    rig.board.requests = [hurried]
    rig.draining.begin(timeout=0.02)
    await asyncio.sleep(0.15)
    assert hurried.stops == ["interrupt"]


@scenario
async def test_connections_are_closed_only_while_the_door_is_shut(rig: Rig) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def headers() -> list[tuple[bytes, bytes]]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await HangUp(app, rig.door)({"type": "http"}, None, send)  # type: ignore[arg-type]
        found: list[tuple[bytes, bytes]] = sent[0]["headers"]
        return found

    assert await headers() == []
    rig.door.leave()
    assert await headers() == []
    rig.door.shut()
    assert await headers() == [(b"connection", b"close")]
    rig.door.open()
    assert await headers() == []
