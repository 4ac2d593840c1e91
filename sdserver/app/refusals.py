"""What a port refuses before any route sees it: counted, and in the log of requests."""

import logging
from collections.abc import Callable
from typing import Final

from starlette.types import Scope

from sdserver.app.logs import ACCESS
from sdserver.ops.metrics import REFUSED

access_log = logging.getLogger(ACCESS)

_LONGEST: Final = 500
"""Characters of a path that are logged."""

OnRefused = Callable[[int], None]


class Refusals:
    """Told of every refusal of a port.

    Args:
        on_refused: told each one's status.
    """

    def __init__(self, on_refused: OnRefused = lambda _: None) -> None:
        self._on_refused = on_refused

    def of_request(self, scope: Scope, status: int, detail: str) -> None:
        """A request was refused."""
        client = scope.get("client")
        self._tell(
            status, detail, client[0] if client else "", scope["method"], str(scope["path"])[:_LONGEST]
        )

    def of_connection(self, status: int, detail: str, client: str) -> None:
        """A connection was ended with an answer; whether what came of it was a request is not known."""
        self._tell(status, detail, client)

    def _tell(self, status: int, detail: str, client: str, method: str = "", path: str = "") -> None:
        self._on_refused(status)
        if not access_log.isEnabledFor(logging.INFO):
            return
        fields = {"method": method, "path": path, "route": REFUSED, "status": status, "client": client}
        told = {name: value for name, value in fields.items() if value}
        access_log.info("%s %s %d: %s", method or "-", path or "-", status, detail, extra={"fields": told})
