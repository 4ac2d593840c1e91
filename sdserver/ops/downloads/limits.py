"""How patient a download is. The defaults suit a node; tests use smaller ones."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from sdserver.errors import DownloadError
from sdserver.ops.downloads.progress import DownloadProgress

MIB, GIB = 1 << 20, 1 << 30


def wait(seconds: float, cancelled: Event) -> None:
    """Sleep, but wake at once when the download is cancelled."""
    cancelled.wait(seconds)


@dataclass(frozen=True, slots=True)
class Pace:
    """Time and chance, injected.

    Attributes:
        now: monotonic seconds.
        pause: sleeps for some seconds or until the event is set.
        between: a random float in [a, b].
    """

    now: Callable[[], float] = time.monotonic
    pause: Callable[[float, Event], None] = wait
    between: Callable[[float, float], float] = random.uniform


@dataclass(frozen=True, slots=True)
class Limits:
    """Time-outs in seconds, sizes in bytes.

    Attributes:
        connect: for a connection to stand.
        silence: without a byte, until the connection counts as dead.
        slow_window, slow_speed: below this speed over the whole window, the connection is given up.
        attempts: failures in a row per source.
        progress: a connection that brought this much starts the counting of failures anew.
        first_backoff, last_backoff: between these, doubling, lies the longest pause after a failure;
            the real one is uniform below it ("full jitter", so that a fleet of nodes spreads out).
        longest_retry_after: a server that asks for a longer pause is given up.
        redirects: at most so many.
        spare: what must stay free on the disk.
        sync_every: bytes between two fsyncs of the growing file.
        report_every: between two reports of progress.
        poll: between two looks at a file that another process downloads.
        stale_owner: a foreign owner who gave no sign for so long is gone.
        pace: time and chance.
    """

    connect: float = 10.0
    silence: float = 30.0
    slow_window: float = 60.0
    slow_speed: float = 50_000.0
    attempts: int = 8
    progress: int = MIB
    first_backoff: float = 1.0
    last_backoff: float = 30.0
    longest_retry_after: float = 600.0
    redirects: int = 5
    spare: int = GIB
    sync_every: int = 64 * MIB
    report_every: float = 0.5
    poll: float = 0.5
    stale_owner: float = 20.0
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a whole call of `fetch`.

    Attributes:
        progress: told now and then how far it is.
        cancelled: set to end it.
    """

    progress: Callable[[DownloadProgress], None]
    cancelled: Event
    limits: Limits

    def pause(self, seconds: float) -> None:
        """
        Raises:
            DownloadCancelled: somebody cancelled before or meanwhile.
        """
        check_cancelled(self.cancelled)
        self.limits.pace.pause(seconds, self.cancelled)
        check_cancelled(self.cancelled)


class DownloadCancelled(DownloadError):
    """Somebody wants no download any more: no other source is tried."""


def check_cancelled(cancelled: Event) -> None:
    """
    Raises:
        DownloadCancelled: the event is set.
    """
    if cancelled.is_set():
        raise DownloadCancelled("The download was cancelled; the next start resumes it.")
