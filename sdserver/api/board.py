"""All requests that were accepted: the unfinished ones, and for a while those that ended."""

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime
from itertools import islice
from typing import Any, Final, cast

from sdserver.api.entry import Entry, EntryKind, EntryState, Result
from sdserver.api.failure import failure_of
from sdserver.api.shelf import Shelf
from sdserver.errors import InvalidField, TaskExists

MAX_REMEMBERED: Final = 1000
MAX_ID: Final = 200
MAX_KEY: Final = 255
TIMESTAMP: Final = "%Y%m%d%H%M%S"
_ID = re.compile(r"[!-~]([ -~]*[!-~])?")


class Board:
    """Knows every request by its id. Lives on the event loop.

    Results are kept for those alone who ask for them later, within a budget of bytes and seconds; that
    a request ended is remembered longer.

    Args:
        max_bytes: of results that are kept.
        max_seconds: how long they are kept.
        clock: seconds since 1970.

    Attributes:
        shelf: keeps the results.
    """

    def __init__(self, max_bytes: int, max_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.shelf = Shelf(max_bytes, max_seconds, clock)
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._unfinished: dict[Entry, None] = {}
        self._ended: dict[Entry, None] = {}
        self._keys: dict[str, tuple[str, Entry]] = {}
        self._last: Entry | None = None
        self._followers: set[asyncio.Task[None]] = set()
        self._opened = 0
        self._is_closed = False
        self._changes = 0
        self._changed = asyncio.Event()

    def open(self, kind: EntryKind, wanted_id: str | None, now: datetime) -> Entry:
        """A new entry.

        Args:
            kind: of the request.
            wanted_id: what the client wants it to be known by, None or empty for a random one.
            now: local time when the request came.

        Raises:
            InvalidField: the id is too long, or not printable ASCII.
            TaskExists: an unfinished request has it.
        """
        if wanted_id and (len(wanted_id) > MAX_ID or not _ID.fullmatch(wanted_id)):
            message = f"'force_task_id' must be at most {MAX_ID} printable ASCII characters."
            raise InvalidField("force_task_id", message)
        request_id = uuid.uuid4().hex
        entry_id = wanted_id or request_id
        known = self._entries.get(entry_id)
        if known is not None:
            if not known.is_over:
                raise TaskExists(f"There is an unfinished request {entry_id!r}: choose another id, or wait.")
            self.forget(known)
        entry = Entry(entry_id, request_id, kind, now.strftime(TIMESTAMP), self._clock, self._touch)
        self._entries[entry_id] = entry
        self._unfinished[entry] = None
        self._opened += 1
        self._touch()
        return entry

    def run(self, entry: Entry, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        """Have the entry's work done; the task's end is the entry's."""
        entry.outcome = task = asyncio.create_task(work)
        task.add_done_callback(lambda done: self._end(entry, done))
        return task

    def replayed(self, key: str, fingerprint: str) -> Entry | None:
        """The entry that was opened with this idempotency key, if it did not fail and its result is there.

        Raises:
            InvalidField: another request came with that key, or it is too long.
        """
        if len(key) > MAX_KEY:
            raise InvalidField("Idempotency-Key", f"An idempotency key has at most {MAX_KEY} characters.")
        known, entry = self._keys.get(key, ("", None))
        if entry is None or entry.stopped == "drop" or (entry.is_over and self.result_of(entry) is None):
            return None
        if known != fingerprint:
            message = "Another request came with this idempotency key: choose a new key."
            raise InvalidField("Idempotency-Key", message)
        return entry

    def knows(self, key: str) -> bool:
        """Whether a request came with this idempotency key lately."""
        return key in self._keys

    def remember(self, key: str, fingerprint: str, entry: Entry) -> None:
        """Let requests that repeat the key join the entry."""
        entry.key = key
        self._keys[key] = (fingerprint, entry)

    def find(self, entry_id: str) -> Entry | None:
        """The entry of that id, None if it is not known (any more)."""
        return self._entries.get(entry_id)

    def result_of(self, entry: Entry) -> Result | None:
        """An ended entry's result, None if it has none or it is not kept (any more)."""
        return cast(Result | None, self.shelf.get(entry))

    def entries(self) -> tuple[Entry, ...]:
        """All that are known, oldest first."""
        return tuple(self._entries.values())

    @property
    def opened(self) -> int:
        """How many were opened since the start."""
        return self._opened

    def newest(self, count: int) -> tuple[Entry, ...]:
        """The last ones of those that are known, oldest first."""
        return tuple(reversed(tuple(islice(reversed(self._entries.values()), count))))

    @property
    def changes(self) -> int:
        """Counts what happened to any of them; see `changed`."""
        return self._changes

    async def changed(self, since: int) -> int:
        """Wait until something happened to any of them after `since`; the new count."""
        while self._changes == since:
            await self._changed.wait()
        return self._changes

    @property
    def is_closed(self) -> bool:
        """Whether the server is about to end."""
        return self._is_closed

    def close(self) -> None:
        """Let those who follow all jobs know that no more will come."""
        self._is_closed = True
        self._touch()

    def active(self) -> tuple[Entry, ...]:
        """Unfinished ones, oldest first."""
        return tuple(self._unfinished)

    @property
    def current(self) -> Entry | None:
        """What is shown as running: the oldest that runs, else the oldest that waits."""
        running = (entry for entry in self._unfinished if entry.state == "running")
        return next(running, None) or next(iter(self._unfinished), None)

    @property
    def last(self) -> Entry | None:
        """The one that ended last."""
        return self._last

    @property
    def waiting(self) -> tuple[Entry, ...]:
        """Those that have not begun, the next one first."""
        return tuple(entry for entry in self._unfinished if entry.state == "queued")

    def place(self, entry: Entry) -> int:
        """Its place among those that wait, from 1; 0 if it has begun."""
        waiting = self.waiting
        return waiting.index(entry) + 1 if entry in waiting else 0

    def move(self, entry: Entry, to: int) -> None:
        """Give one of those that wait another place among them.

        Args:
            entry: one that waits.
            to: its place, from 1; beyond the last it is the last.
        """
        waiting = [one for one in self.waiting if one is not entry]
        waiting.insert(to - 1, entry)
        begun = [one for one in self._unfinished if one.state != "queued"]
        self._unfinished = dict.fromkeys([*begun, *waiting])
        for one in waiting:
            one.place_changed()

    def follow(self, task: "asyncio.Task[None]") -> None:
        """Have `drained` wait for what comes after a request's end, too."""
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    async def drained(self, seconds: float) -> None:
        """Wait until all requests ended and what follows them is done, then drop those that did not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for entry in self.active():
                    await entry.over()
                if self._followers:
                    await asyncio.wait(set(self._followers))
        for entry in self.active():
            entry.stop("drop")
        for task in self._followers:
            task.cancel()

    def forget(self, entry: Entry) -> None:
        """Throw away what is kept of an ended one."""
        if not entry.is_over:
            return
        self.shelf.drop(entry)
        self._ended.pop(entry, None)
        if self._keys.get(entry.key, ("", None))[1] is entry:
            del self._keys[entry.key]
        if self._entries.get(entry.id) is entry:
            del self._entries[entry.id]

    def _touch(self) -> None:
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _end(self, entry: Entry, task: "asyncio.Task[Result]") -> None:
        state: EntryState = "completed"
        if task.cancelled():
            state = "cancelled"
        elif (error := task.exception()) is not None:
            state, entry.failure = "failed", failure_of(error)
        elif entry.is_kept:
            result = task.result()
            self.shelf.put(entry, result, result.size)
        self._last = entry
        self._unfinished.pop(entry, None)
        self._ended[entry] = None
        entry.end(state)
        while len(self._ended) > MAX_REMEMBERED:
            self.forget(next(iter(self._ended)))
