"""The documents, and what the program says of itself."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute

from sdserver.api.config import ApiConfig
from sdserver.api.options import Options
from sdserver.api.server import create_app
from sdserver.app.administration import Administrator
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.ops.admin import Keyhole, admin_routes
from sdserver.ops.logs import LogRing, Redactor
from sdserver.ops.metrics import Metrics
from sdserver.ops.server import maintenance_app
from sdserver.ops.state import Node
from sdserver.settings.model import Settings
from sdserver.web.site import documentation_routes, login_routes, page_routes

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

Routes = frozenset[str]
RULE = re.compile(r"\|( -+ \|)+$")
CELL_END = re.compile(r"(?<=\s)\|(?=\s|$)")


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    _, found, rest = text.partition(f"{heading}\n")
    assert found, heading
    level = len(heading) - len(heading.lstrip("#"))
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of a text's tables, without heads and rules."""
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        is_head, is_rule = RULE.match(following), RULE.match(line)
        if line.startswith("| ") and not is_head and not is_rule:
            yield [cell.strip() for cell in CELL_END.split(line.removeprefix("|"))[:-1]]


def codes(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]*)`", text)


class NoCatalog:
    """A catalog that is never asked."""

    def find(self, name: str) -> Any: ...
    def all(self) -> tuple[Any, ...]:
        return ()

    def refresh(self) -> None: ...
    def hashed(self, checkpoint: Any) -> Any: ...


@pytest.fixture(scope="session")
def client() -> EngineClient:
    """A client whose engine is never started."""
    config = EngineConfig("cpu", "fp32", "sdpa", 1, 2, 1, False, False, 1, "warning")
    return EngineClient(config, 1, lambda _: None, lambda _: None)


@pytest.fixture(scope="session")
def api(client: EngineClient, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The API with the page, all that may be switched on included."""
    folder = tmp_path_factory.mktemp("data")
    app: Any = create_app(
        ApiConfig(folder, "test", api_server_stop=True),
        client,
        NoCatalog(),
        Networks(NetworkFolders(), folder / "hashes.json"),
        Options(folder / "config.json"),
        lambda _route, _code, _seconds: None,
        [*page_routes(), *documentation_routes(), *login_routes()],
    )
    while not hasattr(app, "routes"):  # the middleware around it
        app = getattr(app, "_app", None) or app.app
    assert isinstance(app, FastAPI)
    return app


@pytest.fixture(scope="session")
def api_routes(api: FastAPI) -> Routes:
    """`GET /path` and the like, of port 8000."""
    return frozenset(_named(api.routes))


@pytest.fixture(scope="session")
def maintenance_routes(client: EngineClient) -> Routes:
    """The same of port 8001, with the operators'."""
    operators = admin_routes(
        Administrator(Settings(), client, lambda: None, lambda: False), Keyhole(b""), LogRing(Redactor())
    )
    return frozenset(_named(maintenance_app(Node("test"), Metrics(), client, operators=operators).routes))


def _named(routes: Iterable[BaseRoute | Any]) -> Iterator[str]:
    """Each route's methods and path. HEAD goes without saying."""
    for route in routes:
        if hasattr(route, "original_router"):  # how FastAPI keeps a router that was included
            yield from _named(route.original_router.routes)
        else:
            yield from (f"{method} {route.path}" for method in (route.methods or ()) if method != "HEAD")
