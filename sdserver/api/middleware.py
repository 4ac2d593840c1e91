"""Pure ASGI middleware: starlette's BaseHTTPMiddleware would hide that a client has left."""

import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdserver.api.errors import JsonResponse, four_keys, response_of
from sdserver.errors import BodyTooLarge

OnRequest = Callable[[str, int, float], None]

UNMATCHED = "unmatched"
CLIENT_LEFT = 499
TASK_SCOPE = "sdserver.task"
"""The scope's key of the id under which a request is known on the board."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Observe:
    """Adds X-Process-Time, X-Request-Id and, of a request on the board, X-Task-Id; reports every request.

    Args:
        on_request: told the route's template (`page` for the page's files, `unmatched` for unknown paths),
            status and seconds.
    """

    def __init__(self, app: ASGIApp, on_request: OnRequest) -> None:
        self._app = app
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = CLIENT_LEFT
        wanted = Headers(scope=scope).get("x-request-id", "")
        request_id = wanted if _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Process-Time"] = str(round(time.perf_counter() - began, 4))
                headers["X-Request-Id"] = request_id
                if TASK_SCOPE in scope:
                    headers["X-Task-Id"] = scope[TASK_SCOPE]
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        finally:
            matched = "page" if "endpoint" in scope else UNMATCHED
            route = getattr(scope.get("route"), "path", matched)
            self._on_request(route, status, time.perf_counter() - began)


class LimitBody:
    """Answers 413 to a body above the limit, also where its length was not announced.

    Args:
        max_bytes: the largest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        seen = 0

        async def receive_limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                # The app wraps what is raised here into an answer of its own, which is dropped below.
                raise BodyTooLarge
            return message

        async def send_limited(message: Message) -> None:
            if seen <= self._max_bytes:
                await send(message)

        try:
            await self._app(scope, receive_limited, send_limited)
        except BodyTooLarge:
            pass
        finally:
            if seen > self._max_bytes:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"The body is larger than {self._max_bytes:,} bytes: send a smaller one."
        response = response_of(BodyTooLarge(message))
        # The rest of the body is not read, so the connection cannot be used again.
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


class RefuseForeignPages:
    """Refuses what a page of another site makes a browser send, unless CORS allows that page.

    A browser asks first before it sends JSON to another site, but not where the request has no
    Content-Type, and such requests must be served here. `Sec-Fetch-Site` is set by browsers alone.

    Args:
        is_allowed: whether an origin's pages may call the API.
    """

    def __init__(self, app: ASGIApp, is_allowed: Callable[[str], bool]) -> None:
        self._app = app
        self._is_allowed = is_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS:
            headers = Headers(scope=scope)
            foreign = headers.get("sec-fetch-site") == "cross-site"
            if foreign and not self._is_allowed(headers.get("origin", "")):
                message = "Pages of this origin may not call the API; --cors-allow-origins allows them."
                await JsonResponse(four_keys("HTTPException", message), 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)
