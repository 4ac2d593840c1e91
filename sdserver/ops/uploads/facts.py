"""How the uploads go, for whoever asks on the maintenance port."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UploadFacts:
    """The uploads at one moment.

    Attributes:
        target: for people, without secrets.
        files, bytes: that wait.
        oldest_seconds: how long the oldest has waited; 0 if none does.
        results: how often each outcome was seen: `stored`, a reason of failure, `dropped`, `not_spooled`.
        error: the last failure, None if the last try succeeded or there was none.
        error_age: seconds since then.
        pause: seconds until the store is tried again; 0 if it is not left alone.
    """

    target: str
    files: int
    bytes: int
    oldest_seconds: float
    results: Mapping[str, int]
    error: str | None
    error_age: float
    pause: float
