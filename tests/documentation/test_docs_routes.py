"""Every route is documented, and every documented route is served."""

import re
from pathlib import Path

import pytest

from sdserver.engine.client import EngineClient
from sdserver.ops.metrics import Metrics
from sdserver.ops.state import Node
from tests.documentation.conftest import DOCUMENTS, Routes, read, section

ROUTE = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?]*)`")
API_PATH = re.compile(r"`(/(?:sdapi|internal)/[a-z0-9/-]+)`")
NOT_SERVED = "### Not served"


def routes_in(text: str) -> Routes:
    return frozenset(f"{method} {path}" for method, path in ROUTE.findall(text))


def test_the_apis_routes_are_those_documented(api_routes: Routes) -> None:
    assert "POST /sdapi/v1/txt2img" in api_routes
    assert routes_in(section(read("api.md"), "## Port 8000")) == api_routes


def test_the_maintenance_routes_are_those_documented(maintenance_routes: Routes) -> None:
    assert "GET /live" in maintenance_routes
    assert routes_in(section(read("api.md"), "## Port 8001")) == maintenance_routes


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_route_that_is_not_there(
    document: Path, api_routes: Routes, maintenance_routes: Routes
) -> None:
    text = document.read_text(encoding="utf-8")
    served = api_routes | maintenance_routes
    assert routes_in(text) <= served
    missing = section(text, NOT_SERVED) if NOT_SERVED in text else ""
    paths = {route.split(" ")[1] for route in served}
    assert set(API_PATH.findall(text.replace(missing, ""))) <= paths
    assert not set(API_PATH.findall(missing)) & paths


def test_metrics_are_those_documented(client: EngineClient) -> None:
    metrics = Metrics()
    text = metrics.text(Node("test").facts(), client).decode()
    kinds = re.findall(r"^# TYPE (sdserver_\w+) (\w+)$", text, re.MULTILINE)
    names = {name for name, _ in kinds if not name.endswith("_created")}
    assert set(re.findall(r"`(sdserver_\w+)`", section(read("api.md"), "## Port 8001"))) == names
