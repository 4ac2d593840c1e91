"""Every route is documented, and every documented route is served."""

import re
from pathlib import Path

import pytest

from sdserver.engine.client import EngineClient
from sdserver.ops.metrics import Metrics
from sdserver.ops.state import Node
from tests.documentation.conftest import DOCUMENTS, ROOT, Routes, read, section

ROUTE = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?]*)`")
API_PATH = re.compile(r"`(/(?:sdapi|internal)/[a-z0-9/-]+)`")
NOT_SERVED = "### Not served"
STATIC = ROOT / "sdserver" / "web" / "static"


FILES = ("GET /web/page/...", "GET /web/vendor/...")
"""What stands for all files of a folder."""


def routes_in(text: str) -> Routes:
    return frozenset(f"{method} {path}" for method, path in ROUTE.findall(text))


def files_below(route: str) -> Routes:
    """The routes that a documented folder stands for: one for each file in it, with those of its folders."""
    folder = route.removeprefix("GET /web/").removesuffix("/...")
    names = (file.relative_to(STATIC).as_posix() for file in (STATIC / folder).rglob("*") if file.is_file())
    return frozenset(f"GET /web/{name}" for name in names)


def written_out(documented: Routes) -> Routes:
    """The documented routes, with every file of the folders among them."""
    found = documented - set(FILES)
    return found.union(*(files_below(route) for route in FILES if route in documented))


def test_the_apis_routes_are_those_documented(api_routes: Routes) -> None:
    assert "POST /sdapi/v1/txt2img" in api_routes
    documented = routes_in(section(read("api.md"), "## Port 8000"))
    assert {route for route in documented if "..." in route} == set(FILES)
    assert written_out(documented) == api_routes


def test_folders_stand_for_the_files_that_are_served(api_routes: Routes) -> None:
    """No file of the page's is left out, and none is served that does not lie there."""
    for folder in FILES:
        below = {route for route in api_routes if route.startswith(folder.removesuffix("..."))}
        assert files_below(folder) == below
        assert len(below) > 5


def test_the_maintenance_routes_are_those_documented(maintenance_routes: Routes) -> None:
    assert "GET /live" in maintenance_routes
    assert routes_in(section(read("api.md"), "## Port 8001")) == maintenance_routes


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_route_that_is_not_there(
    document: Path, api_routes: Routes, maintenance_routes: Routes
) -> None:
    text = document.read_text(encoding="utf-8")
    served = api_routes | maintenance_routes
    assert written_out(routes_in(text)) <= served
    missing = section(text, NOT_SERVED) if NOT_SERVED in text else ""
    paths = {route.split(" ")[1] for route in served}
    assert set(API_PATH.findall(text.replace(missing, ""))) <= paths
    assert not set(API_PATH.findall(missing)) & paths


def test_metrics_are_those_documented(client: EngineClient) -> None:
    metrics, node = Metrics(), Node("test")
    node.watch_certificate(lambda: 0.0)
    text = metrics.text(node.facts(), client).decode()
    kinds = re.findall(r"^# TYPE (sdserver_\w+) (\w+)$", text, re.MULTILINE)
    names = {name for name, _ in kinds if not name.endswith("_created")}
    assert set(re.findall(r"`(sdserver_\w+)`", section(read("api.md"), "## Port 8001"))) == names
