"""Serving below a proxy's prefix."""

from starlette.types import ASGIApp, Receive, Scope, Send


class BelowPrefix:
    """ASGI middleware: tells the app its prefix, whether or not the proxy cuts it off the path.

    Args:
        subpath: empty, or `/like/this`.
    """

    def __init__(self, app: ASGIApp, subpath: str) -> None:
        self._app = app
        self._subpath = subpath

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._subpath and scope["type"] == "http":
            scope["root_path"] = self._subpath
        await self._app(scope, receive, send)


def route_path(scope: Scope) -> str:
    """The request's path without the prefix."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path.removeprefix(prefix)
    return path
