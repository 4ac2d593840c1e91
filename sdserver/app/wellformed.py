"""Requests that proxies and servers may read differently, or that are all headers, get no further."""

import json
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from sdserver.app.refusals import Refusals

MOST_HEADERS: Final = 100
MOST_HEAD_BYTES: Final = 16_384
VERSIONS: Final = frozenset({"1.0", "1.1"})


class WellFormed:
    """ASGI middleware: refuses what the parser of HTTP lets pass, and closes the connection.

    Args:
        refusals: told of each.
    """

    def __init__(self, app: ASGIApp, refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = _fault(scope) if scope["type"] == "http" else None
        if fault is None:
            await self._app(scope, receive, send)
        else:
            self._refusals.of_request(scope, *fault)
            await refuse(send, *fault)


def _fault(scope: Scope) -> tuple[int, str] | None:
    headers = scope["headers"]
    names = [name for name, _ in headers]
    if scope["http_version"] not in VERSIONS:
        return 505, "This server speaks HTTP/1.1."
    if b"transfer-encoding" in names and b"content-length" in names:
        # Where a proxy believes the one and the server the other, a second request hides in the first.
        return 400, "A request has Transfer-Encoding or Content-Length, not both."
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(a) + len(b) + 4 for a, b in headers)
    if len(names) > MOST_HEADERS or size > MOST_HEAD_BYTES:
        message = f"At most {MOST_HEADERS} headers of {MOST_HEAD_BYTES:,} bytes together, address included."
        return 431, message
    return None


async def refuse(send: Send, status: int, detail: str, retry_after: int = 0) -> None:
    """Answer with AUTOMATIC1111's error body, and close the connection.

    Args:
        send: where the answer goes.
        status: of the answer.
        detail: why, in a sentence.
        retry_after: seconds after which the client may try again; 0 where that is of no use.
    """
    body = json.dumps({"error": "HTTPException", "detail": detail, "body": "", "errors": ""}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if retry_after:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
