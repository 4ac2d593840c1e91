"""Refused requests are counted by why."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sdserver.app.observation import Observation
from sdserver.ops.metrics import Metrics
from sdserver.ops.state import Node, Phase


class Idle:
    running = waiting = 0
    capacity = 1
    eta_seconds = 0.0


def rejected(route: str, code: int, *phases: Phase) -> dict[str, float]:
    """What is counted once a route answered so, in the last of these phases."""
    node, metrics = Node("1"), Metrics()
    for phase in phases:
        assert node.enter(phase)
    Observation(node, metrics).request_done(route, code, 0.1)
    families = text_string_to_metric_families(metrics.text(node.facts(), Idle()).decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        sample.labels["reason"]: sample.value
        for sample in samples
        if sample.name == "sdserver_rejected_total"
    }


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (400, "invalid"),
        (401, "auth"),
        (413, "too_large"),
        (422, "invalid"),
        (503, "queue_full"),
        (504, "deadline"),
    ],
)
@pytest.mark.parametrize("route", ["/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/v1/jobs", "/v1/images/edits"])
def test_reasons(route: str, code: int, reason: str) -> None:
    assert rejected(route, code, "loading", "ready") == {reason: 1}


def test_503_is_said_of_nodes_that_do_not_take_work_too() -> None:
    assert rejected("/sdapi/v1/txt2img", 503, "loading", "ready", "draining") == {"draining": 1}
    assert rejected("/sdapi/v1/txt2img", 503, "loading", "ready", "restarting") == {"not_ready": 1}
    assert rejected("/sdapi/v1/txt2img", 422, "loading", "ready", "draining") == {"invalid": 1}


def test_other_answers_and_other_routes_do_not_count() -> None:
    assert rejected("/sdapi/v1/txt2img", 200, "loading", "ready") == {}
    assert rejected("/sdapi/v1/options", 422, "loading", "ready") == {}
