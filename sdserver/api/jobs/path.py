"""Ids of clients' own in paths: `task%2F1` is one segment."""

from typing import Final
from urllib.parse import quote, unquote

from starlette.routing import Match
from starlette.types import Scope

from sdserver.api.json_body import JsonRoute

JOBS: Final = "/v1/jobs"


class RawPathRoute(JsonRoute):
    """A route that is found by the path as it was sent, so that an encoded slash separates nothing.

    Parameters come as they were sent, too: `segment` decodes them.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the route is meant."""
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw is not None:
            scope = {**scope, "path": raw.partition(b"?")[0].decode("latin-1")}
        return super().matches(scope)


def segment(parameter: str) -> str:
    """A path's parameter decoded."""
    return unquote(parameter)


def job_path(job_id: str) -> str:
    """Where a job is found, below the server's prefix."""
    return f"{JOBS}/{quote(job_id, safe='')}"
