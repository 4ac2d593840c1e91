"""Decides whether a request may pass: a user's password, a key or a session does."""

import base64
import binascii
import hashlib
import hmac
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from sdserver.api.auth.attempts import Attempts, key_of
from sdserver.api.auth.origin import is_own_page
from sdserver.api.auth.sessions import Sessions

COOKIES: Final = ("access-token", "access-token-unsecure")
"""Gradio's names. Browsers send the first over HTTPS alone."""

MISSING: Final = "Not authenticated"
MALFORMED: Final = "Invalid authentication credentials"
WRONG: Final = "Incorrect username or password"
WRONG_KEY: Final = "Incorrect API key"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who may pass.

    Attributes:
        user: the name of a user; None for a key, and where everybody may pass.
    """

    user: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody may not pass, in AUTOMATIC1111's words where it has them.

    Attributes:
        wait: seconds after which another try makes sense, 0 if it is not a matter of time.
    """

    detail: str
    wait: int = 0


class Gate:
    """All that lets a request pass. Passwords and keys are kept as digests.

    Args:
        users: names and passwords.
        keys: SHA-256 digests of keys.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        users: Sequence[tuple[str, str]],
        keys: Sequence[bytes],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = tuple(
            (user, _digest(spelling)) for user, password in users for spelling in _spellings(user, password)
        )
        self._keys = tuple(keys)
        self._attempts = Attempts(clock=clock)
        self.sessions = Sessions(clock=clock)

    @property
    def has_users(self) -> bool:
        """Whether anybody can log in."""
        return bool(self._users)

    @property
    def is_open(self) -> bool:
        """Whether everybody may pass."""
        return not self._users and not self._keys

    @property
    def challenges(self) -> tuple[str, ...]:
        """Values of `WWW-Authenticate`: how clients may show who they are."""
        basic = ('Basic realm="sdserver", charset="UTF-8"',) if self._users else ()
        return (*basic, 'Bearer realm="sdserver"') if self._keys else basic

    def judge(self, method: str, headers: Headers, client: str) -> Visitor | Refusal:
        """Whether the request with these headers may pass. Any one valid credential does.

        An open gate looks at no header, for some clients always send an empty one.

        Args:
            method: of HTTP.
            headers: the request's.
            client: its address.
        """
        if self.is_open:
            return Visitor()
        if is_own_page(method, headers):
            for token in tokens_in(headers):
                user = self.sessions.user(token)
                if user is not None:
                    return Visitor(user)
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        shown = rest.strip()
        if scheme.lower() == "basic" and shown and self._users:
            return self._basic(shown, client)
        if scheme.lower() == "bearer" and shown and self._keys:
            return self._bearer(shown)
        return Refusal(MISSING)

    def login(self, user: str, password: str, client: str) -> Visitor | Refusal:
        """Whether a user may log in with that password."""
        return self._check(f"{user}:{password}".encode("utf-8", "surrogateescape"), client)

    def _basic(self, encoded: str, client: str) -> Visitor | Refusal:
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return Refusal(MALFORMED)
        return self._check(given, client) if b":" in given else Refusal(MALFORMED)

    def _check(self, given: bytes, client: str) -> Visitor | Refusal:
        key = key_of(client, given.partition(b":")[0])
        wait = self._attempts.wait(key)
        if wait:
            return Refusal(f"Too many failed logins; try again in {wait} s.", wait)
        digest = _digest(given)
        # Every user is compared, so that the time tells nothing about which one came close.
        matches = [user for user, known in self._users if hmac.compare_digest(digest, known)]
        if matches:
            self._attempts.succeeded(key)
            return Visitor(matches[0])
        self._attempts.failed(key)
        return Refusal(WRONG)

    def _bearer(self, given: str) -> Visitor | Refusal:
        digest = _digest(given.encode())
        matches = [hmac.compare_digest(digest, known) for known in self._keys]
        return Visitor() if any(matches) else Refusal(WRONG_KEY)


def tokens_in(headers: Headers) -> Iterator[str]:
    """The session tokens among the cookies."""
    for line in headers.getlist("cookie"):
        cookies = cookie_parser(line)
        yield from (cookies[name] for name in COOKIES if cookies.get(name))


def _spellings(user: str, password: str) -> Iterator[bytes]:
    """The login as clients write it: in UTF-8 of either normal form, or, as many do, in latin-1."""
    texts = dict.fromkeys(
        (
            f"{user}:{password}",
            *(unicodedata.normalize(form, f"{user}:{password}") for form in ("NFC", "NFD")),
        )
    )
    seen = set()
    for text in texts:
        seen.add(text.encode("utf-8", "surrogateescape"))
        try:
            seen.add(text.encode("latin-1"))
        except UnicodeEncodeError:
            continue
    yield from sorted(seen)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
