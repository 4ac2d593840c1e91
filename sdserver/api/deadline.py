"""How long a request may take, in queue and work together."""

import math
import re
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from sdserver.errors import InvalidField

HEADER: Final = "X-Request-Timeout"
ARRIVED_SCOPE: Final = "sdserver.arrived"
"""The scope's key of the time of `time.monotonic` when the request's headers came."""
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,30})?")


def deadline_of(scope: Scope, limit: float = 0.0) -> float | None:
    """When the request is given up, by `time.monotonic`; None for never.

    Args:
        scope: its client may ask for less than the limit by `X-Request-Timeout`, in seconds.
        limit: of all requests, in seconds; 0 for none.

    Raises:
        InvalidField: the header is no number of seconds above 0.
    """
    text = Headers(scope=scope).get(HEADER, "").strip()
    wanted = float(text) if _SECONDS.fullmatch(text) else 0.0
    if text and not wanted:
        raise InvalidField(HEADER, f"The header {HEADER} must be a number of seconds above 0, such as 30.")
    seconds = min(limit or math.inf, wanted or math.inf)
    return None if math.isinf(seconds) else float(scope.get(ARRIVED_SCOPE, time.monotonic())) + seconds


def left(deadline: float | None) -> float | None:
    """Seconds until then, None for never."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
