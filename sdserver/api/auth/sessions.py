"""Sessions of those who logged in with the form: in memory, so a restart ends them."""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

LIFETIME: Final = 7 * 24 * 3600
MOST: Final = 1000
_TOKEN_BYTES: Final = 32
_LONGEST_TOKEN: Final = 128


class Sessions:
    """Open sessions by the digest of their token, oldest first. Used on the event loop alone.

    Args:
        lifetime: seconds after which a session ends.
        most: how many there are; a new one then ends the oldest.
        clock: seconds that only grow.
    """

    def __init__(
        self, lifetime: float = LIFETIME, most: int = MOST, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lifetime = lifetime
        self._most = most
        self._clock = clock
        self._open: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, user: str) -> str:
        """Begin a session; its token, 256 random bits."""
        self._drop_ended()
        while len(self._open) >= self._most:
            self._open.popitem(last=False)
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._open[_digest(token)] = (user, self._clock() + self._lifetime)
        return token

    def user(self, token: str) -> str | None:
        """Whose session it is; None if there is none of that token."""
        if len(token) > _LONGEST_TOKEN:
            return None
        user, ends = self._open.get(_digest(token), ("", 0.0))
        return user if self._clock() < ends else None

    def close(self, token: str) -> None:
        """End a session, if there is one of that token."""
        self._open.pop(_digest(token), None)

    def _drop_ended(self) -> None:
        now = self._clock()
        while self._open and next(iter(self._open.values()))[1] <= now:
            self._open.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
