"""Requests whose clients have left are bounded, too."""

import asyncio

from patience import PATIENCE
from starlette.types import Receive, Scope, Send

from sdserver.app.limits import ConnectionLimits
from sdserver.app.refusals import Refusals
from sdserver.app.servers import Guard, Serving, bind
from sdserver.app.unfinished import Unfinished

MOST = 3
GET = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


class Stubborn:
    """An application that ends no request before it may, whether or not its client is still there."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.came = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came.release()
        await self.may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def test_who_leaves_makes_no_room_before_the_work_ends() -> None:
    async def test() -> None:
        app, refused = Stubborn(), list[int]()
        bound = bind("127.0.0.1", 0, "--port")
        address = bound.getsockname()[:2]
        limits = ConnectionLimits(most=MOST, most_per_address=0)
        serving = Serving(app, bound, guard=Guard(limits, on_refused=refused.append))
        await serving.start()

        async def ask() -> bytes:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(GET)
            answer = await reader.read()
            writer.close()
            return answer

        for _ in range(MOST):
            _, writer = await asyncio.open_connection(*address)
            writer.write(GET)
            await app.came.acquire()
            writer.transport.abort()
        while len(serving.wall):
            await asyncio.sleep(0.01)
        answer = (await ask()).decode()
        assert answer.startswith("HTTP/1.1 503 ")
        assert "\r\nretry-after: 5\r\n" in answer
        assert "3 unfinished requests" in answer
        assert refused == [503]
        app.may_end.set()
        while not (answer := (await ask()).decode()).startswith("HTTP/1.1 200 "):
            await asyncio.sleep(0.01)
        await serving.stop()

    asyncio.run(asyncio.wait_for(test(), PATIENCE))


def test_requests_that_fail_make_room() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ConnectionError

    async def test() -> None:
        app = Unfinished(fails, 1, Refusals())
        for _ in range(3):
            try:
                await app({"type": "http"}, None, None)  # type: ignore[arg-type]
            except ConnectionError:
                continue
            raise AssertionError("it was refused")

    asyncio.run(test())
