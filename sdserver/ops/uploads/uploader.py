"""Sends what waits in the spool to the store, on the event loop, a few pictures at a time.

Nothing is given up: after a failure the store is left alone for a while, then one picture is tried, and
once that is through the others follow.
"""

import asyncio
import logging
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdserver.ops.uploads.facts import UploadFacts
from sdserver.ops.uploads.failure import UploadFailure
from sdserver.ops.uploads.spool import Claim, Spool
from sdserver.ops.uploads.store import Store
from sdserver.ops.uploads.target import key_of, media_type_of

log = logging.getLogger(__name__)

STORED: Final = "stored"
DROPPED: Final = "dropped"
REFUSED: Final = "not_spooled"


@dataclass(frozen=True, slots=True)
class Pace:
    """Time-outs in seconds. The defaults suit a node; tests use smaller ones.

    Attributes:
        parallel: pictures on their way at once.
        first_backoff, last_backoff: between these, doubling, lies the longest pause after a failure;
            the real one is uniform below it ("full jitter", so that a fleet of nodes spreads out).
        hurried_backoff: the longest while the node ends.
        timeout: for one picture.
        rescan: between two looks at what other processes left.
        clock: monotonic seconds.
        between: a random float in [a, b].
    """

    parallel: int = 4
    first_backoff: float = 1.0
    last_backoff: float = 300.0
    hurried_backoff: float = 1.0
    timeout: float = 300.0
    rescan: float = 60.0
    clock: Callable[[], float] = time.monotonic
    between: Callable[[float, float], float] = random.uniform


class Uploader:
    """Uploads in the background. `add` may be called from any thread, the rest on the event loop.

    Args:
        spool: what waits.
        store: where it goes; closed by `stop`.
        target: the store's name for people.
        pace: how patiently.
    """

    def __init__(self, spool: Spool, store: Store, target: str, pace: Pace | None = None) -> None:
        self._spool, self._store, self._target = spool, store, target
        self._pace = pace or Pace()
        self._results: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._uploads: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._failed_at = 0.0
        self._until = 0.0
        self._error: str | None = None
        self._hurries = False

    def start(self) -> None:
        """Begin with what an earlier process left."""
        self._loop = asyncio.get_running_loop()
        self._running = asyncio.create_task(self._run())

    def add(self, path: Path, extension: str) -> str | None:
        """Have a saved picture uploaded; see `Spool.add`. Takes as long as making a link."""
        told = self._spool.add(path, extension)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)
        return told

    def facts(self) -> UploadFacts:
        """How the uploads go. Any thread may call this."""
        spool, now = self._spool.facts(), self._pace.clock()
        results = {**self._results, DROPPED: spool.dropped, REFUSED: spool.refused}
        return UploadFacts(
            self._target,
            spool.files,
            spool.bytes,
            spool.oldest_seconds,
            results,
            self._error,
            now - self._failed_at if self._error else 0.0,
            max(0.0, self._until - now) if self._failures else 0.0,
        )

    async def drained(self, seconds: float) -> bool:
        """Try at once and often until nothing waits, at most so long; whether nothing waits.

        The rest stays on the disk, for the next start.
        """
        self._hurries = True
        self._until = min(self._until, self._pace.clock() + self._pace.hurried_backoff)
        self._wake.set()
        try:
            async with asyncio.timeout(seconds):
                while self._spool.facts().files:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End now. What was on its way stays in the spool."""
        tasks = [*self._uploads, *([self._running] if self._running else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running = None
        await self._store.close()

    async def _run(self) -> None:
        pace = self._pace
        looked_at = pace.clock()
        while True:
            self._wake.clear()
            if pace.clock() - looked_at >= pace.rescan:
                looked_at = pace.clock()
                await self._rescan()
            if pace.clock() >= self._until:
                self._begin()
            if not self._spool.waiting and not self._uploads:
                self._empty.set()
            pauses = [looked_at + pace.rescan, *([self._until] if self._until > pace.clock() else [])]
            try:
                async with asyncio.timeout(max(0.0, min(pauses) - pace.clock())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _begin(self) -> None:
        """Begin as many uploads as may run: one while the store is in doubt."""
        most = 1 if self._failures else self._pace.parallel
        for _ in range(min(self._spool.waiting, most - len(self._uploads))):
            task = asyncio.create_task(self._take_and_upload())
            self._uploads.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._uploads.discard(task)
        self._wake.set()

    async def _take_and_upload(self) -> None:
        begun_at = self._pace.clock()
        taking = asyncio.ensure_future(asyncio.to_thread(self._spool.take))
        try:
            claim = await asyncio.shield(taking)
        except asyncio.CancelledError:
            if (claim := await taking) is not None:
                self._spool.later(claim)
            raise
        if claim is None:
            return
        is_stored = False
        try:
            await self._upload(claim)
            is_stored = True
        except UploadFailure as failure:
            self._note_failure(failure, begun_at)
        except Exception as error:  # noqa: BLE001
            # Whatever it is, the store must not be tried again without a pause.
            # Its message may hold an address with a secret; where it comes from does not.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("an upload failed in an unforeseen way, %s:\n%s", type(error).__name__, where)
            self._note_failure(UploadFailure("refused", type(error).__name__), begun_at)
        finally:
            if is_stored:
                self._note_success()
                self._spool.done(claim)
            else:
                self._spool.later(claim)

    async def _upload(self, claim: Claim) -> None:
        data, key = await asyncio.to_thread(_read, claim)
        try:
            async with asyncio.timeout(self._pace.timeout):
                await self._store.put(key, data, media_type_of(claim.extension))
        except TimeoutError:
            raise UploadFailure("timeout") from None

    def _note_success(self) -> None:
        self._results[STORED] = self._results.get(STORED, 0) + 1
        if self._failures:
            log.warning("uploads to %s work again", self._target)
        self._failures, self._until, self._error = 0, 0.0, None

    def _note_failure(self, failure: UploadFailure, begun_at: float) -> None:
        self._results[failure.reason] = self._results.get(failure.reason, 0) + 1
        # Those that were on their way together fail together, and count once.
        if begun_at < self._failed_at and self._failures:
            return
        pace = self._pace
        if not self._failures or self._error != str(failure):
            log.warning("a picture could not be uploaded to %s; it waits: %s", self._target, failure)
        most = min(pace.last_backoff, pace.first_backoff * 2 ** min(self._failures, 30))
        if self._hurries:
            most = min(most, pace.hurried_backoff)
        self._failures += 1
        self._failed_at = pace.clock()
        self._error = str(failure)
        self._until = self._failed_at + max(pace.between(0.0, most), failure.retry_after)

    async def _rescan(self) -> None:
        try:
            await asyncio.to_thread(self._spool.rescan)
        except OSError as error:
            log.warning("the upload spool could not be read: %s", error)


def _read(claim: Claim) -> tuple[bytes, str]:
    """The picture and its key; hashing it takes time."""
    data = claim.read()
    return data, key_of(data, claim.extension, claim.saved_at)
