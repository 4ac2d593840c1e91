"""Keeps out whoever the gate does not let pass, on every path but a few."""

from typing import Final

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sdserver.api.admission import mark_refused
from sdserver.api.auth.gate import Gate, Refusal
from sdserver.api.errors import JsonResponse, four_keys
from sdserver.api.paths import route_path

PROBES: Final = frozenset({"/health", "/internal/ping"})
LOGIN: Final = "/login"
OPEN_PATHS: Final = PROBES | {LOGIN, "/web/style.css", "/web/icon.svg"}
"""The probes, and what the login page needs."""

VISITOR: Final = "sdserver.visitor"
"""The scope's key of the `Visitor`."""

_POLICY_VIOLATION: Final = 1008


class RequireLogin:
    """ASGI middleware: only those whom the gate lets pass get further.

    Unlike AUTOMATIC1111's it also covers the page, the documentation and every route added later.

    Args:
        gate: who may pass.
        login_page: whether browsers that want a page are sent to the form, instead of being asked for
            HTTP Basic.
    """

    def __init__(self, app: ASGIApp, gate: Gate, *, login_page: bool) -> None:
        self._app = app
        self._gate = gate
        self._login_page = login_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket") or (kind == "http" and route_path(scope) in OPEN_PATHS):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # What a WebSocket may do is not known, so a link does not do for it.
        method = scope["method"] if kind == "http" else "POST"
        judged = self._gate.judge(method, headers, client_of(scope))
        if not isinstance(judged, Refusal):
            scope[VISITOR] = judged
            await self._app(scope, receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            mark_refused(scope)
            await self._refused(judged, method, headers, scope)(scope, receive, send)

    def _refused(self, refusal: Refusal, method: str, headers: Headers, scope: Scope) -> Response:
        wants_page = method in ("GET", "HEAD") and "text/html" in headers.get("accept", "")
        if self._login_page and wants_page:
            return RedirectResponse(
                f"{scope.get('root_path', '')}{LOGIN}", 303, {"Cache-Control": "no-store"}
            )
        body = four_keys("HTTPException", refusal.detail)
        if refusal.wait:
            return JsonResponse(body, 429, {"Retry-After": str(refusal.wait)})
        response = JsonResponse(body, 401)
        if not (self._login_page and _is_of_our_page(headers)):
            for challenge in self._gate.challenges:
                response.headers.append("WWW-Authenticate", challenge)
        return response


def _is_of_our_page(headers: Headers) -> bool:
    """Whether the page's script asks: it shows the form itself, and browsers would ask before it may."""
    return "x-requested-with" in headers or "text/event-stream" in headers.get("accept", "")


def client_of(scope: Scope) -> str:
    """The client's address, empty if it is not known."""
    client = scope.get("client")
    return str(client[0]) if client else ""
