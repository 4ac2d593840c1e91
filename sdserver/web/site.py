"""The browser page and the documentation, served from memory."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
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
_LOGIN: Final = "/login"
_SHARED: Final[Mapping[str, str]] = {"/web/style.css": "style.css", "/web/icon.svg": "icon.svg"}


def page_routes() -> list[Route]:
    """The page itself, at the root."""
    return [_route(path, name) for path, name in _PAGE.items()]


def documentation_routes() -> list[Route]:
    """`/docs`, which shows what `/openapi.json` says, and what it shares with the page.

    `/redoc` leads there.
    """
    files_served = (*_DOCUMENTATION.items(), *_SHARED.items())
    return [*(_route(path, name) for path, name in files_served), Route("/redoc", _to_docs, methods=["GET"])]


def login_routes() -> list[Route]:
    """The form to log in with; it uses what `documentation_routes` shares with the page."""
    policy = HEADERS["Content-Security-Policy"].replace("form-action 'none'", "form-action 'self'")
    return [_route(_LOGIN, "login.html", {"Content-Security-Policy": policy})]


async def _to_docs(_request: Request) -> Response:
    """FastAPI's other documentation; relative, for a proxy may have cut off a prefix."""
    return RedirectResponse("docs")


def _route(path: str, name: str, headers: Mapping[str, str] | None = None) -> Route:
    content = files("sdserver.web").joinpath("static", name).read_bytes()
    media_type = _TYPES[name.rpartition(".")[2]]

    async def serve(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers={**HEADERS, **(headers or {})})

    return Route(path, serve, methods=["GET", "HEAD"])
