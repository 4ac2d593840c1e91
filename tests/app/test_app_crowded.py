"""Where all connections are taken: which of them makes room for another."""

import asyncio
import contextlib
from dataclasses import replace
from typing import cast

import pytest
from starlette.types import Receive, Scope, Send

from sdserver.app.limits import ConnectionLimits, GuardedProtocol, Wall
from tests.app.test_app_limits import Port, Stream, answer, drip, echo, port, run

FULL = ConnectionLimits(most=4, most_per_address=0, window=60, head_seconds=2, least_rate=1000, grace=0.5)
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 90000000\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n"


async def admitted(here: Port) -> None:
    """Wait until a new connection is served; it is refused until the slow ones have been slow for long."""
    while (status := (await here.ask())[0]) != 200:
        assert status == 503
        await asyncio.sleep(0.1)


async def closed(stream: Stream) -> bool:
    """Whether the server ended it, soon."""
    with contextlib.suppress(ConnectionError):
        while await asyncio.wait_for(stream[0].read(100_000), 20):
            pass
    return True


def test_the_slowest_of_those_who_send_too_slowly_makes_room() -> None:
    async def test() -> None:
        async with port(FULL) as here:
            streams = [await here.connect(POST) for _ in range(4)]
            parts = (bytes(100_000), bytes(100_000), b"x", bytes(100_000))
            dripping = [
                asyncio.create_task(drip(stream[1], part))
                for stream, part in zip(streams, parts, strict=True)
            ]
            await admitted(here)
            status, body = await answer(streams[2][0])
            assert (status, b"1,000 bytes per second" in body) == (408, True)
            last = await here.connect(POST)
            dripping.append(asyncio.create_task(drip(last[1], bytes(100_000))))
            await asyncio.sleep(3 * FULL.pause + 2 * FULL.grace)
            for _ in range(5):
                assert (await here.ask())[0] == 503
            assert not any(stream[0].at_eof() for stream in (streams[0], streams[1], streams[3], last))
            for each in dripping:
                each.cancel()

    run(test())


class Standing:
    """A connection as the wall sees it, at second 100.

    Args:
        waits: seconds that it has waited for its client's next request; None while it works on one.
        pace: at which its client sends or reads.
    """

    def __init__(self, waits: float | None = None, pace: float | None = None) -> None:
        self.waits_since = None if waits is None else 100 - waits
        self.loop = self.transport = self
        self.ended = ""
        self._pace = pace

    def pace(self) -> float | None:
        return self._pace

    def time(self) -> float:
        return 100.0

    def call_later(self, *_: object) -> None:
        """Nothing is looked at here."""

    def abort(self) -> None:
        self.ended = "aborted"

    def make_room(self) -> None:
        self.ended = "too slow"


@pytest.mark.parametrize(
    ("inside", "goes"),
    [
        (
            {"longest idle": (9, None), "idle": (8, None), "new": (0.1, None), "slow": (None, 0)},
            "longest idle",
        ),
        ({"new": (0.1, None), "slow": (None, 9), "slowest": (None, 1)}, "slowest"),
        ({"slow": (None, 9), "slowest": (None, 0), "busy": (None, None)}, "slowest"),
        ({"newest": (0.1, None), "new": (0.2, None), "quick": (None, 1000), "busy": (None, None)}, "new"),
        ({"quick": (None, 1000), "busy": (None, None)}, None),
    ],
)
def test_the_right_one_makes_room(
    inside: dict[str, tuple[float | None, float | None]], goes: str | None
) -> None:
    """What is idle for long, else what is too slow: a new one's request may not be read yet."""
    wall = Wall(replace(FULL, most=len(inside)), lambda _: True)
    standing = {name: Standing(*facts) for name, facts in inside.items()}
    for each in standing.values():
        assert wall.enter(cast("GuardedProtocol", each), "") == ""
    assert (wall.enter(cast("GuardedProtocol", Standing(0)), "") == "") is (goes is not None)
    assert [name for name, each in standing.items() if each.ended] == ([goes] if goes else [])


def test_who_does_not_read_makes_room() -> None:
    async def test() -> None:
        async with port(FULL) as here:
            streams = [await here.connect(LARGE, limit=1000) for _ in range(4)]
            await admitted(here)
            assert len(here.serving.wall) <= 4
            ended = [asyncio.create_task(closed(stream)) for stream in streams]
            await asyncio.wait(ended, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert any(each.done() for each in ended)
            for each in ended:
                each.cancel()

    run(test())


def test_those_who_wait_for_the_server_keep_their_places() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await echo(scope, receive, send)

        async with port(FULL, held) as here:
            whole = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc"
            patient = b"POST / HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
            streams = [await here.connect(each) for each in (whole, whole, patient, patient)]
            await asyncio.sleep(3 * FULL.pause + 2 * FULL.grace)
            assert (await here.ask())[0] == 503
            go.set()
            for stream in streams[:2]:
                assert await answer(stream[0]) == (200, b"3")
            for reader, writer in streams[2:]:
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
                writer.write(b"abc")
                assert await answer(reader) == (200, b"3")

    run(test())
