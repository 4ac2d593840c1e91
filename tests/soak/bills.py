"""What each request costs a server in CPU seconds, whichever tasks and threads work for it."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST = 200
"""Bills that are kept."""
SHOWN = 400
"""Bytes of a body that are kept."""


@dataclass(eq=False, slots=True)
class Bill:
    """Of one request.

    Attributes:
        what: method, path and headers.
        body: where it begins.
        seconds: of CPU, until now.
    """

    what: str
    body: bytes = b""
    seconds: float = 0.0


class Bills:
    """The dearest requests of a server, and what all came to.

    Attributes:
        seconds: of CPU, of all requests.
    """

    def __init__(self) -> None:
        self._current: contextvars.ContextVar[Bill | None] = contextvars.ContextVar("bill", default=None)
        self._dear: set[Bill] = set()
        self._least = 0.005
        self.seconds = 0.0

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, of which every request opens a bill."""

        async def billed(scope: Scope, receive: Receive, send: Send) -> None:
            headers = b", ".join(b"%s: %s" % (name, value[:80]) for name, value in scope.get("headers", ()))
            path = bytes(scope.get("raw_path", b""))[:200]
            bill = Bill(f"{scope.get('method')} {path!r} {headers!r}")
            self._current.set(bill)

            async def seen() -> Message:
                message = await receive()
                if len(bill.body) < SHOWN:
                    bill.body += message.get("body", b"")[: SHOWN - len(bill.body)]
                return message

            await app(scope, seen, send)

        return billed

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Charge what the loop's tasks do, and the threads of all pools that they have work done by."""

        def task(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> "asyncio.Task[Any]":
            return asyncio.Task(Charged(work, self.charge), loop=loop, **more)

        loop.set_task_factory(task)  # type: ignore[arg-type]
        submit = ThreadPoolExecutor.submit

        def charged(pool: ThreadPoolExecutor, work: Callable[..., Any], /, *given: Any) -> "Future[Any]":
            bill = self._current.get()

            def run() -> Any:
                began = time.thread_time()
                try:
                    return work(*given)
                finally:
                    spent = time.thread_time() - began
                    loop.call_soon_threadsafe(self._charge, bill, spent)

            return submit(pool, run)

        ThreadPoolExecutor.submit = charged  # type: ignore[method-assign,assignment]

    def charge(self, seconds: float) -> None:
        """To the request that the caller works for."""
        self._charge(self._current.get(), seconds)

    def dearest(self, count: int) -> list[Bill]:
        """In falling order."""
        return sorted(self._dear, key=lambda bill: -bill.seconds)[:count]

    def _charge(self, bill: Bill | None, seconds: float) -> None:
        if bill is None:
            return
        bill.seconds += seconds
        self.seconds += seconds
        if bill.seconds > self._least:
            self._dear.add(bill)
        if len(self._dear) > 2 * MOST:
            self._dear = set(self.dearest(MOST))
            self._least = min(bill.seconds for bill in self._dear)


class Charged(Coroutine[Any, Any, Any]):
    """A coroutine whose CPU seconds are told after each step, within its own context."""

    def __init__(self, work: Coroutine[Any, Any, Any], charge: Callable[[float], None]) -> None:
        self._work = work
        self._charge = charge

    def send(self, value: Any) -> Any:
        return self._step(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def _step(self, step: Callable[..., Any], *given: Any) -> Any:
        began = time.thread_time()
        try:
            return step(*given)
        finally:
            self._charge(time.thread_time() - began)
