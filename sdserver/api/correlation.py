"""By what id a request goes, wherever it is logged. Imports nothing, so that logs can be set up first."""

import re
import uuid
from contextvars import ContextVar
from typing import Final

REQUEST_ID: Final[ContextVar[str]] = ContextVar("sdserver_request_id", default="")
"""Of the request that this task or thread works for, empty for none."""

_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACE: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)
_NO_TRACE: Final = "0" * 32
_NO_PARENT: Final = "0" * 16


def request_id_of(wanted: str, traceparent: str) -> str:
    """What a request is known by: the client's name for it, else its trace's, else a random one.

    Args:
        wanted: `X-Request-Id`; what is no plain word of at most 128 characters does not count.
        traceparent: as the W3C's Trace Context has it.
    """
    if _ID.fullmatch(wanted):
        return wanted
    return trace_of(traceparent) or uuid.uuid4().hex


def trace_of(traceparent: str) -> str:
    """The id of the trace that a request belongs to, empty for none."""
    found = _TRACE.fullmatch(traceparent[:512])
    if found is None or found[1] == _NO_TRACE or found[2] == _NO_PARENT:
        return ""
    return found[1]
