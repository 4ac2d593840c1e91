"""Connections that cost too much: too many, too slow, no HTTP."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from patience import PATIENCE
from starlette.types import ASGIApp, Receive, Scope, Send
from steady import run_steadily

from sdserver.app.hosts import known_hosts
from sdserver.app.limits import ConnectionLimits, proxies
from sdserver.app.servers import Guard, Serving, bind

QUICK = ConnectionLimits(most=8, most_per_address=0, head_seconds=0.5, window=0.5, least_rate=100, linger=0.5)
GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Coroutine[Any, Any, Stream]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how many bytes came; `/large` is an answer of 32 MB, `/early` one that reads nothing."""
    count, message = 0, {"more_body": scope["path"] != "/early"}
    while message.get("more_body"):
        message = await receive()
        count += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            return
    body = bytes(32_000_000) if scope["path"] == "/large" else str(count).encode()
    head = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


class Port:
    """A server, and connections to it that are closed with it."""

    def __init__(self, serving: Serving, address: tuple[str, int]) -> None:
        self.serving = serving
        self._address = address
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, first: bytes = b"", **options: Any) -> Stream:
        reader, writer = await asyncio.open_connection(*self._address, **options)
        self._writers.append(writer)
        writer.write(first)
        return reader, writer

    async def ask(self, first: bytes = GET) -> tuple[int, bytes]:
        reader, _ = await self.connect(first)
        return await answer(reader)

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)
        await self.serving.stop()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next answer's status and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    lengths = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0].partition(":")[2])) if lengths else b""
    return int(head.split()[1]), body


@contextlib.asynccontextmanager
async def port(limits: ConnectionLimits = QUICK, app: ASGIApp = echo, **guard: Any) -> AsyncIterator[Port]:
    bound = bind("127.0.0.1", 0, "--port")
    address = bound.getsockname()[:2]
    serving = Serving(app, bound, guard=Guard(limits, **guard))
    await serving.start()
    opened = Port(serving, address)
    try:
        yield opened
    finally:
        await opened.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    run_steadily(asyncio.wait_for(test, PATIENCE))


def detail_of(body: bytes) -> str:
    found = json.loads(body)
    assert list(found) == ["error", "detail", "body", "errors"]
    return str(found["detail"])


def test_headers_must_end_in_time() -> None:
    async def test() -> None:
        async with port() as here:
            reader, writer = await here.connect(b"GET / HTTP/1.1\r\n")
            silent, _ = await here.connect()
            began = asyncio.get_running_loop().time()
            dripping = asyncio.create_task(drip(writer, b"X-A: b\r\n"))
            status, body = await answer(reader)
            assert (status, await reader.read()) == (408, b"")
            assert "headers" in detail_of(body)
            assert await silent.read() == b""
            assert 0.4 < asyncio.get_running_loop().time() - began < 5
            dripping.cancel()
            assert len(here.serving.wall) == 0

    run(test())


async def drip(writer: asyncio.StreamWriter, part: bytes, pause: float = 0.05) -> None:
    with contextlib.suppress(OSError):
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)


def test_later_requests_of_a_connection_must_end_in_time_too() -> None:
    async def test() -> None:
        async with port() as here:
            reader, writer = await here.connect(GET)
            assert await answer(reader) == (200, b"0")
            await asyncio.sleep(0.8)  # a connection that waits for its client's next request may
            writer.write(GET + GET[:10])
            assert await answer(reader) == (200, b"0")
            dripping = asyncio.create_task(drip(writer, b"X"))
            assert (await answer(reader))[0] in (400, 408)
            assert await reader.read() == b""
            dripping.cancel()

    run(test())


@pytest.mark.parametrize("part", [b"", b"x"], ids=["idle", "dripping"])
def test_bodies_must_come_fast_enough(part: bytes) -> None:
    async def test() -> None:
        async with port() as here:
            head = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\n\r\n"
            reader, writer = await here.connect(head)
            dripping = asyncio.create_task(drip(writer, part))
            status, body = await answer(reader)
            assert (status, await reader.read()) == (408, b"")
            assert "100 bytes per second" in detail_of(body)
            dripping.cancel()

    run(test())


def test_a_slow_body_that_is_fast_enough_is_taken() -> None:
    async def test() -> None:
        async with port() as here:
            reader, writer = await here.connect(
                b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 800\r\n\r\n"
            )
            for _ in range(8):
                writer.write(bytes(100))
                await asyncio.sleep(0.2)
            assert await answer(reader) == (200, b"800")

    run(test())


def test_what_follows_an_early_answer_is_thrown_away_for_a_while_only() -> None:
    async def test() -> None:
        async with port() as here:
            head = b"POST /early HTTP/1.1\r\nHost: here\r\nContent-Length: 100000000\r\n\r\n"
            reader, writer = await here.connect(head)
            assert await answer(reader) == (200, b"0")
            dripping = asyncio.create_task(drip(writer, bytes(1000)))
            assert await reader.read() == b""
            dripping.cancel()

    run(test())


def test_an_answer_that_is_not_read_is_given_up_and_one_that_is_read_slowly_is_not() -> None:
    async def test() -> None:
        async with port() as here:
            ask = b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n"
            unread, _ = await here.connect(ask, limit=1000)
            slow, _ = await here.connect(ask, limit=1000)
            got = 0
            while piece := await slow.read(1_000_000):
                got += len(piece)
                if got >= 32_000_000:
                    break
                await asyncio.sleep(0.02)
            assert got >= 32_000_000
            while len(here.serving.wall) > 1:
                await asyncio.sleep(0.05)
            with contextlib.suppress(ConnectionResetError):
                assert len(await unread.read()) < 32_000_000

    run(test())


def test_waiting_connections_make_room_for_new_ones_and_busy_ones_do_not() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await echo(scope, receive, send)

        patient = ConnectionLimits(most=4, most_per_address=0)
        async with port(patient, held) as here:
            oldest, _ = await here.connect(b"GET / HT")
            busy = [await here.connect(GET) for _ in range(3)]
            await asyncio.sleep(0.1)
            last, _ = await here.connect(GET)
            with contextlib.suppress(ConnectionResetError):
                assert await oldest.read() == b""
            status, body = await here.ask()
            assert (status, "4 connections" in detail_of(body)) == (503, True)
            go.set()
            assert [await answer(reader) for reader, _ in busy] == [(200, b"0")] * 3
            assert await answer(last) == (200, b"0")
            assert (await here.ask())[0] == 200

    run(test())


def test_one_address_has_fewer_connections_unless_it_is_a_proxy() -> None:
    async def test() -> None:
        hold = asyncio.Event()

        async def held(scope: Scope, receive: Receive, send: Send) -> None:
            await hold.wait()
            await echo(scope, receive, send)

        few = ConnectionLimits(most=100, most_per_address=2)
        async with port(few, held, proxies=()) as here:
            first = [await here.connect(GET) for _ in range(2)]
            await asyncio.sleep(0.1)
            status, body = await here.ask()
            assert (status, "--max-connections-per-address" in detail_of(body)) == (503, True)
            other = await here.connect(GET, local_addr=("127.0.0.2", 0))
            hold.set()
            assert [(await answer(reader))[0] for reader, _ in (*first, other)] == [200] * 3
        hold.clear()
        async with port(few, held, proxies=("127.0.0.0/8",)) as here:
            many = [await here.connect(GET) for _ in range(10)]
            hold.set()
            assert [(await answer(reader))[0] for reader, _ in many] == [200] * 10

    run(test())


def test_slow_clients_delay_nobody() -> None:
    """200 of them, that send headers, bodies and nothing, and read nothing."""

    async def test() -> None:
        limits = ConnectionLimits(most=100, most_per_address=0, head_seconds=30)
        async with port(limits) as here:
            starts = (b"GET / HT", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx", b"")
            slow = []
            for place in range(200):
                _, writer = await here.connect(starts[place % 3])
                slow.append(asyncio.create_task(drip(writer, b"", 0.5)))
            times = []
            for _ in range(40):
                began = asyncio.get_running_loop().time()
                assert (await here.ask())[0] == 200
                times.append(asyncio.get_running_loop().time() - began)
            for each in slow:
                each.cancel()
            assert sorted(times)[37] < 0.5  # a generous bound: docs/reliability.md has the figure

    run(test())


BAD = {
    "smuggled": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "odd coding": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "negative length": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    "huge head": b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "NUL in the path": b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "odd method": b"G@T / HTTP/1.1\r\nHost: h\r\n\r\n",
    "odd version": b"GET / HTTP/9.9\r\nHost: h\r\n\r\n",
    "TLS": bytes.fromhex("16030100") + bytes(200),
    "noise": bytes(range(256)) * 8,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_http_is_refused_and_harms_nobody(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with port() as here:
            reader, writer = await here.connect(BAD[name])
            with contextlib.suppress(OSError):
                await writer.drain()
            got = b""
            with contextlib.suppress(ConnectionResetError):
                got = await reader.read()
            statuses = [line.split()[1] for line in got.splitlines() if line.startswith(b"HTTP/1.1 ")]
            assert len(statuses) <= 1, got  # the rest of what came is no request of its own
            assert set(statuses) <= {b"400", b"408", b"431", b"505"}, got
            assert await here.ask() == (200, b"0")

    run(test())
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("fe80::1%eth0", True), ("", False),
     ("unix", False)],
)  # fmt: skip
def test_proxies_are_known_by_address(address: str, expected: bool) -> None:
    assert proxies(["10.0.0.0/8", "fe80::/10"])(address) is expected
    assert proxies(["*"])(address)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True), ("LOCALHOST:8000", True), ("127.0.0.1:8000", True), ("[::1]:8000", True),
        ("[::1]", True), ("192.168.1.7:8000", True), ("sd.localhost", True), ("sd_backend", True),
        ("sd.example.com", True), ("sd.example.com.:80", True), ("a.b.inside.example", True),
        ("inside.example", True), ("evil.test", False), ("evil.test:8000", False),
        ("127.0.0.1.evil.test", False),
        ("notinside.example", False), ("[::1", False), ("[::1]x", False), ("a:b", False), ("a:b:c", False),
        ("localhost.evil.test", False), ("sd.example.com@evil.test", False),
    ],
)  # fmt: skip
def test_names_of_this_server(host: str, known: bool) -> None:
    assert known_hosts(["sd.example.com", ".inside.example"])(host) is known
    assert known_hosts(["*"])("evil.test")


def test_other_names_are_refused() -> None:
    async def test() -> None:
        async with port(is_known_host=known_hosts(())) as here:
            status, body = await here.ask(GET.replace(b"here", b"evil.test"))
            assert (status, "--allowed-hosts" in detail_of(body)) == (403, True)
            assert (await here.ask())[0] == 200
            assert (await here.ask(b"GET / HTTP/1.0\r\n\r\n"))[0] == 200

    run(test())


def test_forwarded_addresses_count_of_proxies_alone() -> None:
    async def test() -> None:
        seen: list[str] = []

        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["client"][0])
            await echo(scope, receive, send)

        ask = b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9\r\n\r\n"
        for trusted, has_proxies in ((("127.0.0.1/32",), True), (("10.0.0.0/8",), True), (("*",), False)):
            async with port(app=noted, proxies=trusted, has_proxies=has_proxies) as here:
                assert (await here.ask(ask))[0] == 200
        assert seen == ["203.0.113.9", "127.0.0.1", "127.0.0.1"]

    run(test())
