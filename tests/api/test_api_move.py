"""Jobs that wait, in another order."""

from typing import Any

import pytest

from tests.api.conftest import Server
from tests.api.test_api_jobs import Hands, hands, look, submitted, until

__all__ = ["hands"]


def places(server: Server, *names: str) -> list[int]:
    return [look(server, name, "?result=false")["queue_position"] for name in names]


def move(server: Server, job: str, to: object) -> Any:
    return server.request("POST", f"/v1/jobs/{job}/move", json={"to": to})


def test_a_waiting_job_gets_another_place(hands: Hands) -> None:
    server, engine = hands()
    for name in ("run", "a", "b", "c"):
        submitted(server, force_task_id=name)
    engine.begin(0)
    assert places(server, "run", "a", "b", "c") == [0, 1, 2, 3]
    moved = move(server, "c", 1)
    assert (moved.status_code, moved.json()["queue_position"]) == (200, 1)
    assert places(server, "run", "a", "b", "c") == [0, 2, 3, 1]
    requests = {job.id.rpartition("/")[0] for job in engine.jobs}
    order = [job.id.rpartition("/")[0] for job in engine.jobs]
    assert engine.orders == [(order[3], order[1], order[2])]
    assert set(engine.orders[0]) < requests
    assert move(server, "a", 99).json()["queue_position"] == 3
    assert places(server, "c", "b", "a") == [1, 2, 3]
    assert server.request("GET", "/internal/pending-tasks").json()["tasks"] == ["c", "b", "a"]
    for request in (0, 3, 2, 1):
        engine.begin(request)
        engine.finish(request)
    for name in ("run", "a", "b", "c"):
        until(server, name, "completed")


def test_what_does_not_wait_has_no_place(hands: Hands) -> None:
    server, engine = hands()
    submitted(server, force_task_id="run")
    engine.begin(0)
    refused = move(server, "run", 1)
    assert (refused.status_code, "running" in refused.json()["detail"]) == (409, True)
    engine.finish(0)
    until(server, "run", "completed")
    assert move(server, "run", 1).status_code == 409
    assert move(server, "nobody", 1).status_code == 404
    assert engine.orders == []


@pytest.mark.parametrize("to", [0, -1, None, "x", [1], 10**9, 1.5])
def test_what_is_no_place(hands: Hands, to: object) -> None:
    server, engine = hands()
    submitted(server, force_task_id="a")
    assert move(server, "a", to).status_code == 422
    assert engine.orders == []


def test_an_id_with_a_slash(hands: Hands) -> None:
    server, _ = hands()
    submitted(server, force_task_id="a")
    answer = server.request(
        "POST", "/v1/jobs", json={"kind": "txt2img", "prompt": "x", "force_task_id": "x/../y"}
    )
    assert answer.status_code == 202
    assert move(server, "x%2F..%2Fy", 1).json()["queue_position"] == 1
