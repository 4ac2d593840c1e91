"""Pure ASGI middleware: starlette's BaseHTTPMiddleware would hide that a client has left."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdserver.api.admission import ROUTE_SCOPE, mark_refused
from sdserver.api.auth.origin import is_own_page
from sdserver.api.correlation import REQUEST_ID, request_id_of, trace_of
from sdserver.api.deadline import ARRIVED_SCOPE
from sdserver.api.errors import JsonResponse, four_keys, response_of
from sdserver.errors import BodyTooLarge

access_log = logging.getLogger("sdserver.access")

OnRequest = Callable[[str, int, float], None]

UNMATCHED = "unmatched"
CLIENT_LEFT = 499
TASK_SCOPE = "sdserver.task"
"""The scope's key of a request's entry on the board."""
LONGEST_LOGGED = 500
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Observe:
    """Adds X-Process-Time and X-Request-Id, on the board also X-Task-Id and X-Queue-Time; reports requests.

    Args:
        on_request: told the route's template (`page` for the page's files, `unmatched` for unknown paths,
            `refused` for those that reached none), status and seconds.
    """

    def __init__(self, app: ASGIApp, on_request: OnRequest) -> None:
        self._app = app
        self._on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = scope[ARRIVED_SCOPE] = time.monotonic()
        headers = Headers(scope=scope)
        traceparent = headers.get("traceparent", "")
        request_id = request_id_of(headers.get("x-request-id", ""), traceparent)
        token = REQUEST_ID.set(request_id)
        seen = Seen(trace_of(traceparent))

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["X-Process-Time"] = str(round(time.monotonic() - began, 4))
                answered["X-Request-Id"] = request_id
                entry = scope.get(TASK_SCOPE)
                if entry is not None:
                    answered["X-Task-Id"] = entry.id
                    answered["X-Queue-Time"] = str(round(entry.waited, 4))
            seen.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        finally:
            seconds = time.monotonic() - began
            matched = "page" if "endpoint" in scope else UNMATCHED
            route = str(scope.get(ROUTE_SCOPE) or getattr(scope.get("route"), "path", matched))
            self._on_request(route, seen.status, seconds)
            if access_log.isEnabledFor(logging.INFO):
                _log(scope, seen, route, seconds)
            REQUEST_ID.reset(token)


@dataclass(slots=True)
class Seen:
    """What was seen of a request.

    Attributes:
        trace: the id of its trace, empty for none.
        status: of its answer.
        sent: bytes of its answer's body.
    """

    trace: str
    status: int = CLIENT_LEFT
    sent: int = 0


def _log(scope: Scope, seen: Seen, route: str, seconds: float) -> None:
    """A line for people, and the same as fields. Queries and headers may hold secrets: neither is named."""
    method, path, client = scope["method"], str(scope["path"])[:LONGEST_LOGGED], scope.get("client")
    visitor, entry = scope.get("sdserver.visitor"), scope.get(TASK_SCOPE)
    fields = {
        "method": method,
        "path": path,
        "route": route,
        "status": seen.status,
        "seconds": round(seconds, 4),
        "bytes_sent": seen.sent,
        "client": client[0] if client else None,
        "user": getattr(visitor, "user", None),
        "trace_id": seen.trace or None,
        "task": entry.id if entry else None,
        "queue_seconds": round(entry.waited, 4) if entry else None,
    }
    told = {name: value for name, value in fields.items() if value is not None}
    access_log.info("%s %s %d in %.3f s", method, path, seen.status, seconds, extra={"fields": told})


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
    """Refuses what a page of another origin makes a browser send, unless CORS allows that page.

    A browser asks first before it sends JSON elsewhere, but not where the request has no Content-Type,
    and such requests must be served here. Programs that are no browsers name no origin.

    Args:
        is_allowed: whether an origin's pages may call the API.
    """

    def __init__(self, app: ASGIApp, is_allowed: Callable[[str], bool]) -> None:
        self._app = app
        self._is_allowed = is_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS:
            headers = Headers(scope=scope)
            if not is_own_page("POST", headers) and not self._is_allowed(headers.get("origin", "")):
                mark_refused(scope)
                message = (
                    "Pages of this origin may not call the API; --cors-allow-origins allows them. A proxy "
                    "must pass on the Host that it was asked for."
                )
                await JsonResponse(four_keys("HTTPException", message), 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)
