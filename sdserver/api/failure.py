"""Why a request failed, kept without what the exception holds on to."""

import logging
from dataclasses import dataclass
from typing import Final

from fastapi import HTTPException

from sdserver.api.errors import status_of
from sdserver.errors import SdServerError

log = logging.getLogger(__name__)

INTERNAL: Final = "An internal error; the server's log says more."


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed.

    Attributes:
        kind: the error's class.
        message: one sentence.
        status: what HTTP answers to it.
    """

    kind: str
    message: str
    status: int


def failure_of(error: BaseException) -> Failure:
    """The error in words; one that nobody raised on purpose is told to the log alone."""
    kind = type(error).__name__
    if isinstance(error, SdServerError):
        return Failure(kind, str(error), status_of(error))
    if isinstance(error, HTTPException):
        return Failure(kind, str(error.detail), error.status_code)
    log.error("a request failed unexpectedly", exc_info=error)
    return Failure(kind, INTERNAL, 500)
