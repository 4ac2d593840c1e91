"""By what names this server may be asked: a page of the web could give its own name our address."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from sdserver.app.refusals import Refusals
from sdserver.app.wellformed import refuse

EVERY_NAME: Final = "*"


def known_hosts(names: Iterable[str]) -> Callable[[str], bool]:
    """Whether a `Host` header names this server.

    This machine's names do, and addresses: a page that makes a browser ask one can only be that server's
    own. So do names without a dot, which nobody on the internet can own; proxies send them for their
    groups of servers.

    Args:
        names: further ones; `*` for all, `.example.com` for all below a domain.
    """
    listed = {name.lower().rstrip(".") for name in names}
    machine = socket.gethostname().lower()
    own = {"localhost", machine, f"{machine}.local"}

    def is_known(host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        below = any(name.endswith(one) or name == one[1:] for one in listed if one.startswith("."))
        if EVERY_NAME in listed or name in listed or name in own or below:
            return True
        return _is_address(name) or "." not in name or name.endswith(".localhost")

    return is_known


class KnownHosts:
    """ASGI middleware: refuses requests to other names. One without a `Host` comes from no browser.

    Args:
        is_known: see `known_hosts`.
        refusals: told of each.
    """

    def __init__(self, app: ASGIApp, is_known: Callable[[str], bool], refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals
        self._is_known = is_known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if not all(self._is_known(host) for host in hosts if host):
                message = "This server is not known by that name; --allowed-hosts tells its names."
                self._refusals.of_request(scope, 403, message)
                await refuse(send, 403, message)
                return
        await self._app(scope, receive, send)


def _name_of(host: str) -> str | None:
    """The name without port, brackets and last dot; None where it is none."""
    host = host.strip().lower()
    if host.startswith("["):
        name, closed, rest = host[1:].partition("]")
        return name if closed and (not rest or rest.startswith(":")) else None
    name, _, port = host.partition(":")
    return name.rstrip(".") if name and (not port or port.isdecimal()) else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
