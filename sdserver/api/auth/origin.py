"""Whether a browser's request comes from this server's own pages."""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

_READING: Final = frozenset({"GET", "HEAD"})


def is_own_page(method: str, headers: Headers) -> bool:
    """Whether cookies may count: a page of another origin could otherwise use the browser's session.

    Browsers say where a request comes from by `Sec-Fetch-Site` over HTTPS and on this machine, and by
    `Origin` at least when they send or read across origins. A link that is followed from elsewhere may
    show a page; programs that are no browsers send neither header.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return site in ("same-origin", "none") or (is_link and method in _READING)
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        place = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    # A proxy may have put its own name into Host; no page of another origin can set the other header.
    hosts = (headers.get("host"), headers.get("x-forwarded-host"))
    return bool(place) and place in [host.strip().lower() for host in hosts if host]
