"""One answer to one GET, through its redirects, with a token that only the first host sees."""

import email.utils
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

import httpx2

from sdserver.errors import DownloadError
from sdserver.ops.downloads.limits import Limits
from sdserver.ops.downloads.sources import DIGEST, RemoteSource

REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRY_AGAIN = frozenset({408, 425, 429})
# Civitai's firewall refuses the names of Python's HTTP libraries.
USER_AGENT = "sdserver"
LOGIN = re.compile(r"download-auth|/login|/sign-?in|/auth/", re.IGNORECASE)


class TemporaryFailure(DownloadError):
    """The same request may succeed later.

    Attributes:
        retry_after: seconds that the server asked for, or 0.
        slow: whether data came, but too slowly to go on like that.
    """

    def __init__(self, message: str, retry_after: float = 0.0, *, slow: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.slow = slow


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a chain of redirects."""

    url: str
    authorization: str | None
    host: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with status 200, 206 or 416, its body unread.

    Attributes:
        url: the address that answered, after redirects.
        host: its host, and where it was redirected from.
        sha256: the file's digest as Hugging Face's redirect tells it.
    """

    response: httpx2.Response
    url: str
    host: str
    sha256: str | None


def make_client(limits: Limits) -> httpx2.Client:
    """A client that follows no redirect by itself. Proxies and CA files come from the environment."""
    for name in ("httpx2", "httpcore2"):
        # They log addresses and headers, and signed addresses and redirects are secrets.
        logging.getLogger(name).setLevel(logging.WARNING)
    timeout = httpx2.Timeout(limits.silence, connect=limits.connect)
    return httpx2.Client(follow_redirects=False, timeout=timeout, headers={"user-agent": USER_AGENT})


@contextmanager
def get(
    client: httpx2.Client, source: RemoteSource, headers: Mapping[str, str], limits: Limits
) -> Iterator[Answer]:
    """Ask for the source, following redirects.

    Raises:
        TemporaryFailure: no connection, a time-out, or an answer that says "later".
        DownloadError: an answer or redirect that is of no use.
    """
    hop = Hop(source.url, source.authorization, source.host)
    digest: str | None = None
    for _ in range(limits.redirects + 1):
        with _ask(client, hop, headers) as response:
            if source.is_hugging_face and digest is None:
                digest = _linked_digest(response)
            if response.status_code not in REDIRECTS:
                host = hop.host if hop.host == source.host else f"{hop.host} (redirected from {source.host})"
                check_status(response, host, source)
                yield Answer(response, hop.url, host, digest)
                return
            hop = next_hop(hop, response.headers.get("location", ""), source)
    raise DownloadError(f"{source.host} redirects too often; give the address of the file itself.")


@contextmanager
def _ask(client: httpx2.Client, hop: Hop, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
    own = {"accept": "*/*", "accept-encoding": "identity", **headers}
    if hop.authorization:
        own["authorization"] = hop.authorization
    try:
        with client.stream("GET", hop.url, headers=own) as response:
            yield response
    except httpx2.TransportError as error:
        raise _explain(error, hop.host) from error
    except httpx2.InvalidURL:
        raise DownloadError(f"{hop.host} gave an address that is not valid; try another source.") from None


def _explain(error: httpx2.TransportError, host: str) -> DownloadError:
    match error:
        case httpx2.ConnectError() if "CERTIFICATE" in str(error):
            return DownloadError(
                f"{host} could not prove who it is ({error}); set SSL_CERT_FILE for a CA of your own."
            )
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            reason = str(error) or type(error).__name__
            return TemporaryFailure(
                f"{host} could not be reached ({reason}); check that this node may connect to it."
            )
        case httpx2.ProxyError():
            return TemporaryFailure(f"The proxy did not let {host} be reached; check the proxy's settings.")
        case httpx2.TimeoutException():
            return TemporaryFailure(f"{host} went silent; check the network or try a mirror.")
        case httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError():
            return DownloadError(f"{host} cannot be asked with this address; check it.")
        case _:
            return TemporaryFailure(f"{host} cut the connection; check the network or try a mirror.")


def next_hop(hop: Hop, location: str, source: RemoteSource) -> Hop:
    """Where a redirect leads, with the token only if it stays with the origin.

    Raises:
        DownloadError: it leads nowhere, to a login page, or from https to http with a token.
    """
    try:
        url = urljoin(hop.url, location)
        old, new = urlsplit(hop.url), urlsplit(url)
        name, port = new.hostname, new.port
    except ValueError:
        name = None
    if not location or not name or new.scheme not in {"http", "https"}:
        raise DownloadError(f"{hop.host} redirects to something that is no web address; try another source.")
    if LOGIN.search(location):
        raise DownloadError(f"{hop.host} asks for a login; set {source.token_name} to a valid token.")
    if source.has_secret and old.scheme == "https" and new.scheme == "http":
        raise DownloadError(f"{hop.host} redirects to plain http, where a token is not safe; try a mirror.")
    same = (old.scheme, old.hostname, _port(old.scheme, old.port)) == (
        new.scheme,
        name,
        _port(new.scheme, port),
    )
    return Hop(url, hop.authorization if same else None, f"{name}:{port}" if port else name)


def _port(scheme: str, port: int | None) -> int:
    return port or (443 if scheme == "https" else 80)


def _linked_digest(response: httpx2.Response) -> str | None:
    tag = response.headers.get("x-linked-etag", "").strip('"').lower()
    return tag if DIGEST.fullmatch(tag) else None


def check_status(response: httpx2.Response, host: str, source: RemoteSource) -> None:
    """
    Raises:
        TemporaryFailure: the server says "later".
        DownloadError: it refuses, has no such file, or sends a page instead of one.
    """
    status = response.status_code
    if status in {401, 403}:
        hint = (
            f"the token in {source.token_name} or in the address is not accepted"
            if source.authorization
            else f"set {source.token_name} if the file needs a login"
        )
        raise DownloadError(
            f"{host} refused access (HTTP {status}); {hint}, or accept its terms on the page."
        )
    if status in {404, 410}:
        raise DownloadError(f"{host} has no such file (HTTP {status}); check the address.")
    if status in TRY_AGAIN or status >= 500:
        after = retry_after(response.headers.get("retry-after", ""))
        raise TemporaryFailure(
            f"{host} is not able to serve now (HTTP {status}); try later or a mirror.", after
        )
    if status not in {200, 206, 416}:
        raise DownloadError(f"{host} answered HTTP {status}; check the address or try a mirror.")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if status != 416 and kind in {
        "text/html",
        "application/xhtml+xml",
        "application/json",
        "application/xml",
    }:
        raise DownloadError(
            f"{host} sent {kind} instead of a model; give the file's own address, "
            f"and {source.token_name} if it needs a login."
        )
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise DownloadError(f"{host} sends the file compressed, so that it cannot be resumed; try a mirror.")


def retry_after(text: str) -> float:
    """Seconds of a Retry-After header, which holds a number or a date; 0 where it holds neither."""
    if text.strip().isdecimal() and len(text) < 12:
        return float(text)
    then = seconds_of(text)
    return 0.0 if then is None else max(0.0, then - time.time())


def seconds_of(text: str) -> float | None:
    """A header's date in seconds since 1970, None where it is no date."""
    try:
        then: datetime = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return then.replace(tzinfo=then.tzinfo or UTC).timestamp()
