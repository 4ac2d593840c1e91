"""The sockets that requests come in by."""

import asyncio
import socket

from sdserver.app.servers import bind


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
