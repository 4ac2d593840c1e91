"""Requests of ours to addresses that clients name: to public hosts alone, whatever their names resolve to.

A host's name is resolved once, every address found is checked, and the connection goes to a checked one:
a name that resolves to another address the next moment, or a redirect, leads nowhere else.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

import httpx2
import orjson

from sdserver.errors import AddressRefused

T = TypeVar("T")
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Allows = Callable[[str], bool]

TIMEOUT: Final = 30.0
MAX_BYTES: Final = 100_000_000
MAX_REDIRECTS: Final = 3
MAX_ADDRESS: Final = 4096
MAX_CONNECTIONS: Final = 32
CONNECT_TIMEOUT: Final = 10.0
PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_UNICAST_V6: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL_V4: Final = (ipaddress.IPv4Network("192.0.0.0/24"), ipaddress.IPv4Network("192.88.99.0/24"))
"""Protocol assignments and relays, some of which `is_global` lets through."""

_SPECIAL_V6: Final = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)
"""Protocol assignments, documentation, and tunnels to IPv4."""

_SIGNATURES: Final = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cjP  ",
)
_BOXED_SIGNATURES: Final = (b"WEBP", b"ftypavif", b"ftypavis")


def is_public(address: str) -> bool:
    """Whether an IP address is one that anybody on the internet can reach, with none hidden in it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # also one with a zone, which is a link's
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        is_special = ip.is_multicast or ip.is_reserved or any(ip in each for each in _SPECIAL_V4)
        return ip.is_global and not is_special
    if ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
    return ip in _UNICAST_V6 and ip.is_global and not any(ip in each for each in _SPECIAL_V6)


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The host's addresses, in the order in which the system would try them.

    Raises:
        OSError: there is no such host.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Outbound:
    """Sends requests. No cookies, proxies or logins of the environment's take part. Made once.

    Args:
        timeout: seconds for one request in all, its redirects included.
        max_bytes: of an answer.
        resolve: finds a host's addresses.
        allows: whether an address may be connected to.
        tls: what certificates are verified with; None for the usual authorities.
    """

    def __init__(
        self,
        *,
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        resolve: Resolve = resolve_host,
        allows: Allows = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._allows = allows
        # Nothing is kept alive: a later request to the same address may mean another host there.
        limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=0)
        self._transport = httpx2.AsyncHTTPTransport(verify=tls or True, trust_env=False, limits=limits)

    async def get_picture(self, address: str, *, max_bytes: int | None = None, user_agent: str = "") -> bytes:
        """Fetch a picture's file; it is not decoded.

        Args:
            address: http or https.
            max_bytes: fewer than the object's limit.
            user_agent: what to go by; empty for nothing.

        Raises:
            AddressRefused: the address is not allowed, cannot be fetched in time or is no picture's.
        """
        limit = self._max_bytes if max_bytes is None else min(max_bytes, self._max_bytes)
        headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
        if user_agent:
            headers["User-Agent"] = _header_text(user_agent)
        return await self._in_time(self._get(address, headers, limit))

    async def post_json(self, address: str, body: object) -> None:
        """Send JSON; the answer is not read, and redirects are not followed.

        Raises:
            AddressRefused: the address is not allowed, or did not take it in time.
        """
        await self._in_time(self._post(address, orjson.dumps(body)))

    async def close(self) -> None:
        """End what is under way."""
        await self._transport.aclose()

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await work
        except (TimeoutError, httpx2.TimeoutException):
            message = f"The address did not answer within {self._timeout:g} seconds."
            raise AddressRefused(message) from None
        except httpx2.TransportError:
            raise AddressRefused("The address cannot be fetched: the connection failed.") from None

    async def _get(self, address: str, headers: Mapping[str, str], limit: int) -> bytes:
        url = _parsed(address)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send("GET", url, headers)
            try:
                target = response.headers.get("location")
                if response.status_code not in REDIRECTS or target is None:
                    return await _picture(response, limit)
            finally:
                await response.aclose()
            url = _joined(url, target)
        raise AddressRefused(f"The address redirects more than {MAX_REDIRECTS} times.")

    async def _post(self, address: str, body: bytes) -> None:
        response = await self._send("POST", _parsed(address), {"Content-Type": "application/json"}, body)
        await response.aclose()
        if not 200 <= response.status_code < 300:
            raise AddressRefused(f"The address answered with status {response.status_code}.")

    async def _send(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], body: bytes = b""
    ) -> httpx2.Response:
        host = url.raw_host.decode("ascii")
        sent = {"Host": url.netloc.decode("ascii"), "Connection": "close", **headers}
        timeouts = dict.fromkeys(("read", "write", "pool"), self._timeout)
        # TLS asks for, and verifies, the host's name, though the connection goes to a number.
        extensions = {"sni_hostname": host, "timeout": {**timeouts, "connect": CONNECT_TIMEOUT}}
        *others, last = await self._addresses(host, url.port or PORTS[url.scheme])
        for address in others:
            request = _request(method, url, address, sent, body, extensions)
            try:
                return await self._transport.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        request = _request(method, url, last, sent, body, extensions)
        return await self._transport.handle_async_request(request)

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise AddressRefused("The address's host is not known.")
        if not all(self._allows(address) for address in found):
            raise AddressRefused(
                "Request to local resource not allowed: the address's host must be a public one."
            )
        return found


def _request(
    method: str,
    url: httpx2.URL,
    address: str,
    headers: Mapping[str, str],
    body: bytes,
    extensions: Mapping[str, object],
) -> httpx2.Request:
    pinned = url.copy_with(host=f"[{address}]" if ":" in address else address)
    return httpx2.Request(method, pinned, headers=headers, content=body, extensions=dict(extensions))


def _parsed(address: str) -> httpx2.URL:
    if len(address) > MAX_ADDRESS:
        raise AddressRefused(f"An address may have at most {MAX_ADDRESS} characters.")
    try:
        return _checked(httpx2.URL(address))
    except httpx2.InvalidURL:
        raise AddressRefused("The address is not a URL.") from None


def _joined(url: httpx2.URL, target: str) -> httpx2.URL:
    if len(target) > MAX_ADDRESS:
        raise AddressRefused(f"An address may have at most {MAX_ADDRESS} characters.")
    try:
        return _checked(url.join(target))
    except httpx2.InvalidURL:
        raise AddressRefused("The address redirects to what is not a URL.") from None


def _checked(url: httpx2.URL) -> httpx2.URL:
    if url.scheme not in PORTS:
        raise AddressRefused("An address must begin with http:// or https://.")
    if url.userinfo:
        raise AddressRefused("An address must not hold a user name or password.")
    host = url.raw_host
    if not host or b"%" in host or (url.port is not None and not 0 < url.port < 2**16):
        raise AddressRefused("The address's host or port is not valid.")
    return url.copy_with(fragment=None)


async def _picture(response: httpx2.Response, limit: int) -> bytes:
    if response.status_code != 200:
        raise AddressRefused(f"Invalid image url: it answered with status {response.status_code}.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise AddressRefused("Invalid image url: it answered with a compressed body.")
    data = bytearray()
    async for part in response.aiter_raw():
        data += part
        if len(data) > limit:
            raise AddressRefused(f"The picture at the address is too large: at most {limit:,} bytes.")
    is_named = response.headers.get("content-type", "").lower().startswith("image/")
    if not is_named and not _looks_like_picture(bytes(data[:16])):
        raise AddressRefused("Invalid image url: there is no picture.")
    return bytes(data)


def _looks_like_picture(data: bytes) -> bool:
    return data.startswith(_SIGNATURES) or any(data[at:].startswith(_BOXED_SIGNATURES) for at in (4, 8))


def _header_text(text: str) -> str:
    return "".join(char for char in text if char.isascii() and char.isprintable())[:500]
