"""Feeds the node's state and metrics with what the engine and the API report."""

from collections.abc import Mapping
from typing import Final

from sdserver.engine.client import EngineClient
from sdserver.engine.messages import FromEngine, Loaded
from sdserver.jobs.events import Cancelled, Finished, Started
from sdserver.ops.metrics import Metrics, RejectReason
from sdserver.ops.state import Node

REFUSALS: Final[Mapping[int, RejectReason]] = {
    400: "invalid",
    401: "auth",
    413: "too_large",
    422: "invalid",
    503: "queue_full",
    504: "deadline",
}
GENERATION: Final = "/sdapi/v1/txt2img"


class Observation:
    """Listens for the node and the metrics.

    Args:
        node: its phase follows the engine's restarts and loads.
        metrics: counts.
    """

    def __init__(self, node: Node, metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics

    def engine_said(self, message: FromEngine, client: EngineClient) -> None:
        """Take in a message of the engine, after the client did."""
        self._node.observe(message)
        self._metrics.observe(message)
        match message:
            case Loaded() if self._node.phase == "restarting":
                self._node.enter("ready")
            case Started(job):
                ticket = client.ticket_of(job)
                if ticket is not None and ticket.started_at is not None and ticket.images_started == 1:
                    self._metrics.waited(ticket.started_at - ticket.created_at)
            case Finished(interrupted=True):
                self._metrics.cancelled("interrupted")
            case Cancelled():
                self._metrics.cancelled("client_gone")

    def engine_died(self, reason: str) -> None:
        """The engine process ended unasked."""
        self._node.engine_restarted(reason)
        self._metrics.engine_restarted("crash")

    def request_done(self, route: str, code: int, seconds: float) -> None:
        """The API answered a request."""
        self._metrics.request_done(route, code, seconds)
        if route == GENERATION and code in REFUSALS:
            self._metrics.rejected(REFUSALS[code])
