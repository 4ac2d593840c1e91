"""What operators may do on the maintenance port: with the key, and not at all without one."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from sdserver.errors import NotReady
from sdserver.ops.admin import ALLOWED_FAILURES, FAILURE_SECONDS, Keyhole, admin_routes
from sdserver.ops.logs import LogRing, Redactor
from sdserver.ops.metrics import Metrics
from sdserver.ops.server import maintenance_app
from sdserver.ops.state import Node

KEY = "0123456789abcdef"
ROUTES = [
    *(
        ("POST", path)
        for path in ("/drain", "/undrain", "/interrupt", "/unload", "/reload", "/shutdown", "/gc")
    ),
    *(("GET", path) for path in ("/logs", "/config", "/debug/stacks")),
    *(("HEAD", path) for path in ("/logs", "/config", "/debug/stacks")),
    ("DELETE", "/jobs/known"),
]


class Idle:
    running = waiting = capacity = 0
    eta_seconds = 0.0


class Doer:
    """Notes what it was told to do."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def drain(self, timeout: float | None) -> int:
        self.done.append(("drain", timeout))
        return 3

    def undrain(self) -> None:
        self.done.append("undrain")
        raise NotReady("The node is not being drained.")

    def interrupt(self) -> bool:
        self.done.append("interrupt")
        return True

    def cancel(self, job: str) -> bool:
        self.done.append(("cancel", job))
        return job == "known"

    def unload(self) -> None:
        self.done.append("unload")

    def reload(self) -> None:
        self.done.append("reload")

    def shutdown(self) -> None:
        self.done.append("shutdown")

    async def collect(self) -> Mapping[str, object]:
        return {"before": 2, "after": 1}

    def config(self) -> Mapping[str, object]:
        return {"admin_key": "***"}

    async def stacks(self) -> str:
        return "Thread 1"


class Port:
    def __init__(self, *, has_key: bool = True) -> None:
        self.now = 0.0
        self.doer = Doer()
        self.logs = LogRing(Redactor(), lambda: 0.0)
        keyhole = Keyhole(hashlib.sha256(KEY.encode()).digest(), lambda: self.now)
        routes = admin_routes(self.doer, keyhole, self.logs) if has_key else []
        self.app = maintenance_app(Node("1"), Metrics(), Idle(), operators=routes)

    def ask(
        self, method: str, path: str, key: str | None = KEY, client: str = "1.2.3.4", scheme: str = "Bearer"
    ) -> httpx2.Response:
        async def run() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app, client=(client, 1))
            headers = {} if key is None else {"authorization": f"{scheme} {key}".encode()}
            async with httpx2.AsyncClient(transport=transport, base_url="http://node") as http:
                return await http.request(method, path, headers=headers)

        return asyncio.run(run())

    def json(self, method: str, path: str) -> Any:
        return self.ask(method, path).json()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_is_there_for_the_key_alone(method: str, path: str) -> None:
    assert Port(has_key=False).ask(method, path).status_code == 404
    port = Port()
    missing = port.ask(method, path, None)
    assert missing.status_code == 401
    assert missing.headers["www-authenticate"].startswith("Bearer")
    assert port.ask(method, path, KEY, scheme="Basic").status_code == 401
    for wrong in (KEY[:-1], KEY + "x", KEY.upper(), "ключ" * 4):
        assert port.ask(method, path, wrong).status_code == 403
    assert port.doer.done == []
    right = port.ask(method, path)
    assert right.status_code in (200, 202, 409)
    assert right.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "path"), [("GET", "/drain"), ("POST", "/logs"), ("POST", "/jobs/known")])
def test_other_methods_do_nothing(method: str, path: str) -> None:
    port = Port()
    assert port.ask(method, path).status_code == 405
    assert port.doer.done == []


def test_answers() -> None:
    port = Port()
    assert port.json("POST", "/drain") == {"state": "draining", "unfinished": 3}
    assert port.ask("POST", "/drain?timeout=2.5").status_code == 202
    for timeout in ("-1", "nan", "inf", "x", "", "1e9"):
        assert port.ask("POST", f"/drain?timeout={timeout}").status_code == 400
    refused = port.ask("POST", "/undrain")
    assert (refused.status_code, refused.json()) == (409, {"error": "The node is not being drained."})
    assert port.json("POST", "/interrupt") == {"interrupted": True}
    for path in ("/unload", "/reload", "/shutdown"):
        assert port.ask("POST", path).status_code == 202
    assert port.json("POST", "/gc") == {"before": 2, "after": 1}
    assert port.ask("DELETE", "/jobs/known").status_code == 202
    assert port.ask("DELETE", "/jobs/other").status_code == 404
    assert port.ask("DELETE", "/jobs/with%2Fslash%20x").status_code == 404
    assert port.ask("GET", "/debug/stacks").text == "Thread 1"
    assert port.json("GET", "/config") == {"admin_key": "***"}
    assert port.doer.done == [
        *(("drain", None), ("drain", 2.5), "undrain", "interrupt", "unload", "reload", "shutdown"),
        *(("cancel", "known"), ("cancel", "other"), ("cancel", "with/slash x")),
    ]


def test_the_log_is_shown_line_by_line() -> None:
    port = Port()
    for number in range(2000):
        port.logs.add(f"line {number}")
    assert port.ask("GET", "/logs?lines=2").text.splitlines() == [
        "1970-01-01T00:00:00Z line 1998",
        "1970-01-01T00:00:00Z line 1999",
    ]
    assert len(port.ask("GET", "/logs").text.splitlines()) == 100
    assert len(port.ask("GET", "/logs?lines=99999").text.splitlines()) == 1000
    assert port.ask("GET", "/logs?lines=0").text == ""
    for lines in ("-1", "x", "1.5", "9" * 10, "٣"):
        assert port.ask("GET", f"/logs?lines={lines}").status_code == 400


def test_keys_cannot_be_tried_out_quickly() -> None:
    port = Port()
    for _ in range(ALLOWED_FAILURES):
        assert port.ask("POST", "/shutdown", "wrong").status_code == 403
    refused = port.ask("POST", "/shutdown")
    assert refused.status_code == 429, "even the right one waits"
    assert 1 <= int(refused.headers["retry-after"]) <= FAILURE_SECONDS
    assert port.ask("POST", "/interrupt", client="5.6.7.8").status_code == 202, "others do not"
    assert port.doer.done == ["interrupt"]
    port.now += FAILURE_SECONDS
    assert port.ask("POST", "/shutdown").status_code == 202


def test_a_right_key_forgets_the_wrong_ones() -> None:
    port = Port()
    for _ in range(3 * ALLOWED_FAILURES):
        assert port.ask("POST", "/interrupt", "wrong").status_code == 403
        assert port.ask("POST", "/interrupt").status_code == 202
