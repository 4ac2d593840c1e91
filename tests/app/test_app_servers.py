"""The sockets that requests come in by."""

import asyncio
import socket
from pathlib import Path

import pytest
from patience import PATIENCE
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sdserver.app.servers import Serving, bind, guards
from sdserver.settings.load import load


def test_answers_are_not_held_back() -> None:
    """What is written is sent at once, though the client has not yet confirmed what came before."""
    assert asyncio.run(nodelay_of_a_connection())


async def nodelay_of_a_connection() -> int:
    found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(answer, sock=bind("127.0.0.1", 0, "--port")) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        option = await found
        writer.close()
        await writer.wait_closed()
    return option


async def greet(scope: Scope, receive: Receive, send: Send) -> None:
    await Response("hello")(scope, receive, send)


async def asked(bound: socket.socket) -> dict[str, str]:
    """The answer's headers, by their small names."""
    reader, writer = await asyncio.open_connection(*bound.getsockname()[:2])
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    assert body == "hello"
    writer.close()
    await writer.wait_closed()
    return dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])


def test_answers_are_dated_by_the_clock_though_nothing_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def live() -> None:
        bound = bind("127.0.0.1", 0, "--port")
        server = Serving(greet, bound)
        await server.start()
        try:
            monkeypatch.setattr("time.time", lambda: 1_000_000_000.9)
            assert (await asked(bound))["date"] == "sun, 09 sep 2001 01:46:40 gmt"
            monkeypatch.setattr("time.time", lambda: 1_000_000_001.1)
            assert (await asked(bound))["date"] == "sun, 09 sep 2001 01:46:41 gmt"
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(live(), PATIENCE))


def test_a_server_that_nobody_asks_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loop turns when it is asked, and not by the clock."""
    turns = 0
    real = asyncio.SelectorEventLoop._run_once  # type: ignore[attr-defined]

    def counted(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal turns
        turns += 1
        real(loop)

    async def live() -> int:
        server = Serving(greet, bind("127.0.0.1", 0, "--port"))
        await server.start()
        monkeypatch.setattr(asyncio.SelectorEventLoop, "_run_once", counted)
        await asyncio.sleep(0.5)
        found = turns
        await server.stop()
        return found

    assert asyncio.run(asyncio.wait_for(live(), PATIENCE)) <= 3


def test_a_server_ends_when_it_is_told_to_and_lets_an_answer_finish() -> None:
    async def live() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await go.wait()
            await greet(scope, receive, send)

        bound = bind("127.0.0.1", 0, "--port")
        address = bound.getsockname()[:2]
        server = Serving(slow, bound)
        await server.start()
        asking = asyncio.create_task(asked(bound))
        await begun.wait()
        ending = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        go.set()
        assert "date" in await asking
        await ending
        with pytest.raises(OSError, match=r"refused|Connect"):
            await asyncio.open_connection(*address)

    asyncio.run(asyncio.wait_for(live(), PATIENCE))


def test_names_are_checked_where_a_page_could_rebind_its_own(tmp_path: Path) -> None:
    def checks(*argv: str) -> tuple[bool, bool]:
        api, maintenance = guards(load(["--data-dir", str(tmp_path), *argv], {}, cwd=tmp_path, root=tmp_path))
        return api.is_known_host is not None, maintenance.is_known_host is not None

    assert checks() == (True, True)
    assert checks("--api-auth", "u:p") == (False, True)
    assert checks("--listen") == (False, False)
    assert checks("--listen", "--maintenance-host", "127.0.0.1") == (False, True)
    assert checks("--listen", "--allowed-hosts", "sd.example") == (True, True)


def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    flags = [
        "--max-connections",
        "9",
        "--max-connections-per-address",
        "3",
        "--forwarded-allow-ips",
        "10.0.0.7",
    ]
    api, _ = guards(load(["--data-dir", str(tmp_path), *flags], {}, cwd=tmp_path, root=tmp_path))
    assert (api.limits.most, api.limits.most_per_address, api.proxies) == (9, 3, ("10.0.0.7/32",))
