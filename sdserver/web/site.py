"""The browser page and the documentation, served from memory."""

import gzip
import hashlib
import re
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
    "txt": "text/plain; charset=utf-8",
}
_FOLDERS: Final = ("page", "page/tabs", "vendor")
_DOCUMENTATION: Final[Mapping[str, str]] = {"/docs": "docs.html", "/web/docs.js": "docs.js"}
_LOGIN: Final = "/login"
_SHARED: Final[Mapping[str, str]] = {"/web/style.css": "style.css", "/web/icon.svg": "icon.svg"}
_WORTH_PACKING: Final = 1024
"""Bytes below which a file is sent as it is."""


def page_routes() -> list[Route]:
    """The page itself, at the root, and all it consists of."""
    static = files("sdserver.web").joinpath("static")
    names = [f"{folder}/{file.name}" for folder in _FOLDERS for file in static.joinpath(folder).iterdir()]
    parts = sorted(name for name in names if name.rpartition(".")[2] in _TYPES)
    return [_route("/", "index.html"), *(_route(f"/web/{name}", name) for name in parts)]


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
    """A file of ours: packed for those who take that, and not sent again to those who have it."""
    content = files("sdserver.web").joinpath("static", name).read_bytes()
    media_type = _TYPES[name.rpartition(".")[2]]
    packed = gzip.compress(content, mtime=0) if len(content) >= _WORTH_PACKING else None
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    own = {**HEADERS, **(headers or {}), "ETag": tag, "Vary": "Accept-Encoding"}

    async def serve(request: Request) -> Response:
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=own)
        if packed is not None and _takes_gzip(request):
            return Response(packed, media_type=media_type, headers={**own, "Content-Encoding": "gzip"})
        return Response(content, media_type=media_type, headers=own)

    return Route(path, serve, methods=["GET", "HEAD"])


def _takes_gzip(request: Request) -> bool:
    """Whether gzip is named and not ruled out (`gzip;q=0`)."""
    shares = (part.replace(" ", "") for part in request.headers.get("accept-encoding", "").lower().split(","))
    return any(re.fullmatch(r"(gzip|\*)(;q=(1(\.0*)?|0?\.\d*[1-9]\d*))?", share) for share in shares)
