"""What operators may do over the maintenance port with their key; without one none of it is there.

No route takes an address, a path or code.
"""

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sdserver.errors import SdServerError
from sdserver.ops.logs import MAX_LINES, LogRing

ALLOWED_FAILURES: Final = 20
FAILURE_SECONDS: Final = 60.0
LONGEST_TIMEOUT: Final = 86_400.0
_MOST_CLIENTS: Final = 1000
_USUAL_LINES: Final = 100

Fields = Mapping[str, object]


class Administration(Protocol):
    """What is done; `app.administration.Administrator` does it. `SdServerError`s say that it cannot be."""

    def drain(self, timeout: float | None) -> int:
        """Take no new work; interrupt what is unfinished after so many seconds. How much is unfinished."""
        ...

    def undrain(self) -> None:
        """Take new work again."""
        ...

    def interrupt(self) -> bool:
        """Stop what runs at its next step; whether anything ran."""
        ...

    def cancel(self, job: str) -> bool:
        """Drop a request; whether it was there and unfinished."""
        ...

    def unload(self) -> None:
        """Begin to free the device's memory."""
        ...

    def reload(self) -> None:
        """Begin to load the checkpoint again."""
        ...

    def shutdown(self) -> None:
        """Begin to end, as SIGTERM does."""
        ...

    async def collect(self) -> Fields:
        """Give back memory that nothing uses; bytes before and after."""
        ...

    def config(self) -> Fields:
        """The settings, secrets masked."""
        ...

    async def stacks(self) -> str:
        """Where every thread of the node is."""
        ...


class Keyhole:
    """Lets in who has the key. Of one address, only so many wrong keys a minute are looked at.

    Args:
        digest: SHA-256 of the key.
        clock: monotonic seconds.
    """

    def __init__(self, digest: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._digest = digest
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, request: Request) -> None:
        """Pass.

        Raises:
            HTTPException: 401 without a key, 403 with a wrong one, 429 after too many.
        """
        client = request.client.host if request.client else ""
        now = self._clock()
        count, began = self._failures.get(client, (0, now))
        left = began + FAILURE_SECONDS - now
        if left <= 0:
            count, began = 0, now
        if count >= ALLOWED_FAILURES:
            wait = math.ceil(left)
            raise HTTPException(
                429, f"Too many wrong keys; try again in {wait} s.", {"retry-after": str(wait)}
            )
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            headers = {"www-authenticate": 'Bearer realm="sdserver maintenance"'}
            raise HTTPException(401, "Send the operator's key as Authorization: Bearer KEY.", headers)
        given = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        if hmac.compare_digest(given, self._digest):
            self._failures.pop(client, None)
            return
        self._failures[client] = (count + 1, began)
        self._failures.move_to_end(client)
        if len(self._failures) > _MOST_CLIENTS:
            self._failures.popitem(last=False)
        raise HTTPException(403, "This is not the operator's key.")


def admin_routes(administration: Administration, keyhole: Keyhole, logs: LogRing) -> list[Route]:
    """The routes.

    Args:
        administration: does what is asked.
        keyhole: lets in.
        logs: what `/logs` shows.
    """
    answers = _Answers(administration, logs)
    acts: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/drain": answers.drain,
        "/undrain": answers.undrain,
        "/interrupt": answers.interrupt,
        "/unload": answers.unload,
        "/reload": answers.reload,
        "/shutdown": answers.shutdown,
        "/gc": answers.collect,
    }
    shows: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/logs": answers.logs,
        "/config": answers.config,
        "/debug/stacks": answers.stacks,
    }
    return [
        *(Route(path, _locked(keyhole, act), methods=["POST"]) for path, act in acts.items()),
        *(Route(path, _locked(keyhole, show), methods=["GET"]) for path, show in shows.items()),
        Route("/jobs/{id:path}", _locked(keyhole, answers.cancel), methods=["DELETE"]),
    ]


def _locked(
    keyhole: Keyhole, answer: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        keyhole.check(request)
        try:
            return await answer(request)
        except SdServerError as error:
            return JSONResponse({"error": str(error)}, 409)

    return endpoint


class _Answers:
    """One method per route."""

    def __init__(self, administration: Administration, logs: LogRing) -> None:
        self._do = administration
        self._logs = logs

    async def drain(self, request: Request) -> Response:
        unfinished = self._do.drain(_seconds(request.query_params.get("timeout")))
        return JSONResponse({"state": "draining", "unfinished": unfinished}, 202)

    async def undrain(self, _: Request) -> Response:
        self._do.undrain()
        return JSONResponse({"draining": False}, 202)

    async def interrupt(self, _: Request) -> Response:
        return JSONResponse({"interrupted": self._do.interrupt()}, 202)

    async def unload(self, _: Request) -> Response:
        self._do.unload()
        return JSONResponse({"unloading": True}, 202)

    async def reload(self, _: Request) -> Response:
        self._do.reload()
        return JSONResponse({"loading": True}, 202)

    async def shutdown(self, _: Request) -> Response:
        self._do.shutdown()
        return JSONResponse({"state": "draining"}, 202)

    async def collect(self, _: Request) -> Response:
        return JSONResponse(await self._do.collect())

    async def cancel(self, request: Request) -> Response:
        job = request.path_params["id"]
        if not self._do.cancel(job):
            raise HTTPException(404, "There is no unfinished job of that id.")
        return JSONResponse({"cancelled": job}, 202)

    async def logs(self, request: Request) -> Response:
        lines = self._logs.last(_lines(request.query_params.get("lines")))
        return PlainTextResponse("".join(f"{line}\n" for line in lines))

    async def config(self, _: Request) -> Response:
        return JSONResponse(self._do.config())

    async def stacks(self, _: Request) -> Response:
        return PlainTextResponse(await self._do.stacks())


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_TIMEOUT:
        raise HTTPException(400, f"timeout must be a number of seconds from 0 to {LONGEST_TIMEOUT:g}.")
    return seconds


def _lines(text: str | None) -> int:
    if text is None:
        return _USUAL_LINES
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise HTTPException(400, f"lines must be a whole number from 0 to {MAX_LINES}.")
    return min(int(text), MAX_LINES)
