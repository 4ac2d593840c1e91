"""Connections whose bodies end after their answers wait no longer than others for their next request."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from patience import PATIENCE
from starlette.types import Receive, Scope, Send

from sdserver.app.limits import ConnectionLimits
from sdserver.app.servers import Guard, Serving, bind

LIMITS = ConnectionLimits(most_per_address=0, head_seconds=0.5)
HEAD = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n"
BODY = b"x" * 10
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, bytes]]


async def early(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without reading anything."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def talk(first: Talk) -> bytes:
    """What comes after the first answer of a connection, until it is closed."""

    async def test() -> bytes:
        bound = bind("127.0.0.1", 0, "--port")
        address = bound.getsockname()[:2]
        serving = Serving(early, bound, keep_alive=1, guard=Guard(LIMITS))
        await serving.start()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        rest = await first(reader, writer)
        writer.close()
        await serving.stop()
        return rest

    return asyncio.run(asyncio.wait_for(test(), PATIENCE))


@pytest.mark.parametrize(("more", "expected"), [(b"", b""), (b"GET / HT", b"HTTP/1.1 408 ")])
def test_it_is_closed_in_time(more: bytes, expected: bytes) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(BODY + more)
        return await reader.read()

    rest = talk(late)
    assert rest.startswith(expected)
    assert bool(rest) == bool(expected)


def test_it_may_be_used_again() -> None:
    async def again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(BODY[:5])
        await asyncio.sleep(0.1)
        writer.write(BODY[5:])
        await asyncio.sleep(0.1)
        writer.write(HEAD + BODY)
        return await reader.read()

    assert talk(again).startswith(b"HTTP/1.1 404 ")
