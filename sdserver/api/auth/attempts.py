"""Failed logins, counted by client and user name, so that passwords cannot be tried out quickly."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

ALLOWED: Final = 20
WINDOW: Final = 60.0
MOST: Final = 10_000
_LONGEST_NAME: Final = 64

Key = tuple[str, bytes]


class Attempts:
    """Counts failures. Only the client and the name that failed too often must wait, nobody else.

    Args:
        allowed: failures within a window before the next try must wait.
        window: seconds, from the first failure.
        most: how many clients and names are remembered; the longest unused is forgotten.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        allowed: int = ALLOWED,
        window: float = WINDOW,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowed = allowed
        self._window = window
        self._most = most
        self._clock = clock
        self._failures: OrderedDict[Key, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, key: Key) -> int:
        """Whole seconds until that client may try that name again; 0 for at once."""
        count, began = self._failures.get(key, (0, 0.0))
        left = began + self._window - self._clock()
        return math.ceil(left) if count >= self._allowed and left > 0 else 0

    def failed(self, key: Key) -> None:
        """The login failed."""
        now = self._clock()
        count, began = self._failures.pop(key, (0, now))
        if began + self._window <= now:
            count, began = 0, now
        self._failures[key] = (count + 1, began)
        if len(self._failures) > self._most:
            self._failures.popitem(last=False)

    def succeeded(self, key: Key) -> None:
        """The login succeeded: earlier failures no longer count."""
        self._failures.pop(key, None)


def key_of(client: str, name: bytes) -> Key:
    """What failures are counted by. An IPv6 client is its network, for it may have many addresses."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client[:_LONGEST_NAME], name[:_LONGEST_NAME]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        client = str(ipaddress.ip_network((int(address), 64), strict=False))
    return client, name[:_LONGEST_NAME]
