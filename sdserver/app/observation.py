"""Feeds the node's state and metrics with what the engine and the API report."""

from collections.abc import Mapping
from typing import Final

from sdserver.engine.client import EngineClient
from sdserver.engine.messages import EXIT_LOST, FromEngine, Hung, Loaded
from sdserver.jobs.events import Cancelled, Finished, Started
from sdserver.ops.metrics import Metrics, RejectReason, RestartReason
from sdserver.ops.state import Node

REFUSALS: Final[Mapping[int, RejectReason]] = {
    400: "invalid",
    401: "auth",
    413: "too_large",
    422: "invalid",
    503: "queue_full",
    504: "deadline",
}
WORK: Final = frozenset(
    {
        *(f"/sdapi/v1/{name}" for name in ("txt2img", "img2img", "extra-single-image", "extra-batch-images")),
        "/sdapi/v1/interrogate",
        "/v1/jobs",
        *(f"/v1/images/{name}" for name in ("generations", "edits", "variations")),
    }
)
"""Routes whose requests the device works on."""


class Observation:
    """Listens for the node and the metrics.

    Args:
        node: its phase follows the engine's restarts and loads.
        metrics: counts.
    """

    def __init__(self, node: Node, metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics
        self._silence: float | None = None

    def engine_said(self, message: FromEngine, client: EngineClient) -> None:
        """Take in a message of the engine, after the client did."""
        self._node.observe(message)
        self._metrics.observe(message)
        match message:
            case Loaded() if self._node.phase == "restarting":
                self._node.enter("ready")
            case Hung(seconds):
                self._silence = seconds
            case Started(job):
                ticket = client.ticket_of(job)
                if ticket is not None and ticket.started_at is not None and ticket.images_started == 1:
                    self._metrics.waited(ticket.started_at - ticket.created_at)
            case Finished(interrupted=True):
                self._metrics.cancelled("interrupted")
            case Cancelled():
                self._metrics.cancelled("client_gone")

    def engine_died(self, exit_code: int | None, *, is_serving: bool = False) -> str:
        """An engine process ended unasked, or because it hung; why, for people.

        Args:
            exit_code: of the process.
            is_serving: whether another engine takes jobs.
        """
        silence, self._silence = self._silence, None
        kind: RestartReason = "crash"
        reason = f"The engine process ended with code {exit_code}; it is started again."
        if silence is not None:
            kind, reason = "hung", f"The engine process was silent for {silence:.0f} s; it is started again."
        elif exit_code == EXIT_LOST:
            kind, reason = "device", "The device was lost; the engine process is started again."
        self._node.engine_restarted(reason, is_serving=is_serving)
        self._metrics.engine_restarted(kind)
        return reason

    def request_done(self, route: str, code: int, seconds: float) -> None:
        """The API answered a request."""
        self._metrics.request_done(route, code, seconds)
        if route in WORK and code in REFUSALS:
            self._metrics.rejected(self._refusal(code))

    def _refusal(self, code: int) -> RejectReason:
        """Why a request was refused; 503 is said of a queue that is full and of a node that is not ready."""
        phase = self._node.phase
        if code != 503 or phase == "ready":
            return REFUSALS[code]
        return "draining" if phase == "draining" else "not_ready"
