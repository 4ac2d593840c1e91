"""The application asked in this process, with headers and addresses that a real client would not send."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from patience import PATIENCE
from starlette.datastructures import Headers

from sdserver.api.closing import Closing
from sdserver.api.config import ApiConfig, Ending
from sdserver.api.options import Options
from sdserver.api.server import create_app
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.web.site import documentation_routes, login_routes, page_routes
from tests.api.conftest import FakeCatalog, FakeEngine

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Answer:
    """What came back."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.status: int = sent[0]["status"]
        self.headers = Headers(raw=sent[0]["headers"])
        self.body = b"".join(message.get("body", b"") for message in sent[1:])

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (line.partition(";")[0].partition("=") for line in self.headers.getlist("set-cookie"))
        return {name: value for name, _, value in pairs}


class App:
    """The application in this process, asked without a network.

    Args:
        folder: of its data.
        has_page: whether the page is served.
        config: what differs from the usual configuration.
    """

    def __init__(self, folder: Path, *, has_page: bool = True, **config: Any) -> None:
        self.ended: list[str] = []
        ending = Ending(lambda: self.ended.append("stop"), lambda: self.ended.append("kill"))
        closing = Closing()
        closing.begin()  # `ask` waits for an answer's end, and the stream of all jobs has none before
        facts = ApiConfig(folder, "v1.10.1", encoders=1, api_server_stop=True, ending=ending, closing=closing)
        self.app: Any = create_app(
            replace(facts, **config),
            FakeEngine(),
            FakeCatalog(),
            Networks(NetworkFolders(), folder / "hashes.json"),
            Options(folder / "config.json"),
            lambda _route, _code, _seconds: None,
            [*(page_routes() if has_page else ()), *documentation_routes(), *login_routes()],
        )

    def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        client: str = "10.0.0.1",
        scheme: str = "http",
    ) -> Answer:
        lines = {"Host": "sd.example", **(headers or {})}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in lines.items()],
            "client": (client, 1), "server": ("sd.example", 80), "scheme": scheme, "http_version": "1.1",
            "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        return Answer(asyncio.run(asked(self.app, scope, body)))

    def login(self, user: str, password: str, **more: Any) -> Answer:
        body = urlencode({"username": user, "password": password}).encode()
        headers = FORM | more.pop("headers", {})
        return self.ask("POST", "/login", headers, body, **more)

    def routes(self) -> list[tuple[str, str]]:
        """Every method and path that is served, with something in place of parameters."""
        inner = self.app
        while not hasattr(inner, "routes"):
            inner = getattr(inner, "_app", None) or inner.app
        return [(method, path.replace("{", "").replace("}", "")) for method, path in _named(inner.routes)]


async def asked(app: Any, scope: dict[str, Any], body: bytes) -> list[dict[str, Any]]:
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await asyncio.sleep(2 * PATIENCE)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async with asyncio.timeout(PATIENCE):
        await app(scope, receive, send)
    return sent


def _named(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "original_router"):  # how FastAPI keeps a router that was included
            yield from _named(route.original_router.routes)
        else:
            yield from ((method, route.path) for method in route.methods or ())
