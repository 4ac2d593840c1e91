"""Telling addresses that clients name when their jobs end."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from sdserver.api.entry import Entry
from sdserver.errors import AddressRefused

log = logging.getLogger(__name__)

WAITS: Final = (2.0, 10.0, 60.0)
MAX_AT_ONCE: Final = 8


class Post(Protocol):
    """Sends JSON to an address."""

    async def post_json(self, address: str, body: object) -> None:
        """Raises AddressRefused."""
        ...


class Webhooks:
    """Follows jobs to their ends and tells it; no job waits for that.

    Args:
        post: sends it.
        describe: the job object.
        remember: holds on to what is under way.
        waits: seconds before each try after the first.
    """

    def __init__(
        self,
        post: Post,
        describe: Callable[[Entry], dict[str, Any]],
        remember: Callable[[asyncio.Task[None]], None],
        waits: Sequence[float] = WAITS,
    ) -> None:
        self._post = post
        self._describe = describe
        self._waits = waits
        self._remember = remember
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def follow(self, entry: Entry, address: str) -> None:
        """Tell the address when the entry ends."""
        self._remember(asyncio.create_task(self._follow(entry, address)))

    async def _follow(self, entry: Entry, address: str) -> None:
        await entry.over()
        told = self._describe(entry)
        for wait in (*self._waits, None):
            try:
                async with self._slots:
                    await self._post.post_json(address, told)
                return
            except AddressRefused as error:
                reason = str(error)
            if wait is None:
                log.warning("the webhook of job %s was not delivered: %s", entry.id, reason)
            else:
                await asyncio.sleep(wait)
