"""HTTP Basic in front of everything but the two probes."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sdserver.api.errors import JsonResponse, four_keys
from sdserver.api.paths import route_path

OPEN_PATHS = frozenset({"/health", "/internal/ping"})
CHALLENGE = {"WWW-Authenticate": 'Basic realm="sdserver", charset="UTF-8"'}


class BasicAuth:
    """ASGI middleware: only the users given may pass; without users everybody may.

    Unlike AUTOMATIC1111's it also covers the page, the documentation and every route added later.
    Without users the header is not looked at, for some clients always send an empty one.
    """

    def __init__(self, app: ASGIApp, users: Sequence[tuple[str, str]]) -> None:
        self._app = app
        self._digests = tuple(_digest(f"{user}:{password}".encode()) for user, password in users)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._digests or route_path(scope) in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope).get("authorization", ""))
        if refusal is None:
            await self._app(scope, receive, send)
            return
        response = JsonResponse(four_keys("HTTPException", refusal), 401, CHALLENGE)
        await response(scope, receive, send)

    def _refusal(self, header: str) -> str | None:
        """Why the header does not do, in AUTOMATIC1111's words; None if it does."""
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic" or not encoded.strip():
            return "Not authenticated"
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return "Invalid authentication credentials"
        if b":" not in given:
            return "Invalid authentication credentials"
        digest = _digest(given)
        # Every user is compared, so that the time tells nothing about which one came close.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return None if any(matches) else "Incorrect username or password"


def _digest(credentials: bytes) -> bytes:
    return hashlib.sha256(credentials).digest()
