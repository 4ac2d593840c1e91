"""The browser page and the documentation, served from memory."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Nothing is loaded from elsewhere, nothing inline is run, nobody may frame the page."""

_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE: Final[Mapping[str, str]] = {"/": "index.html", "/web/app.js": "app.js"}
_DOCUMENTATION: Final[Mapping[str, str]] = {"/docs": "docs.html", "/web/docs.js": "docs.js"}
_SHARED: Final[Mapping[str, str]] = {"/web/style.css": "style.css", "/web/icon.svg": "icon.svg"}


def page_routes() -> list[Route]:
    """The page itself, at the root."""
    return [_route(path, name) for path, name in _PAGE.items()]


def documentation_routes() -> list[Route]:
    """`/docs`, and what it shares with the page. Shows what `/openapi.json` says."""
    return [_route(path, name) for path, name in (*_DOCUMENTATION.items(), *_SHARED.items())]


def _route(path: str, name: str) -> Route:
    content = files("sdserver.web").joinpath("static", name).read_bytes()
    media_type = _TYPES[name.rpartition(".")[2]]

    async def serve(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=dict(HEADERS))

    return Route(path, serve, methods=["GET", "HEAD"])
