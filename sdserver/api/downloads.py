"""Model files that operators fetch by address, one at a time."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from sdserver.errors import DownloadError, InvalidField

log = logging.getLogger(__name__)

ModelKind = Literal["checkpoint", "vae", "lora", "embedding"]
DownloadState = Literal["running", "completed", "failed", "cancelled"]
SCHEMES: Final = ("https", "http", "hf")
MAX_ADDRESS: Final = 4096
MAX_REMEMBERED: Final = 20


class Progress(Protocol):
    """How far a file is; see `ops.downloads.progress`."""

    @property
    def file(self) -> str: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def speed(self) -> float: ...
    @property
    def eta(self) -> float | None: ...


class FetchModel(Protocol):
    """Fetches a file into the folder of its kind. Blocks."""

    def __call__(
        self, url: str, kind: ModelKind, sha256: str, progress: Callable[[Progress], None], cancelled: Event
    ) -> Path:
        """Where the file is.

        Raises:
            DownloadError: it cannot be had, or the download was cancelled.
        """
        ...


@dataclass(slots=True)
class Download:
    """One file.

    Attributes:
        address: without what may be secret.
        name: of the file once it is there.
        error: why it failed.
    """

    id: str
    address: str
    kind: ModelKind
    state: DownloadState = "running"
    name: str = ""
    error: str = ""
    progress: Progress | None = None
    cancelled: Event = field(default_factory=Event)

    def view(self) -> dict[str, Any]:
        """As clients see it."""
        far = self.progress
        return {
            "id": self.id,
            "address": self.address,
            "kind": self.kind,
            "state": self.state,
            "file": self.name or (far.file if far else ""),
            "bytes_done": far.done if far else 0,
            "bytes_total": far.total if far else None,
            "bytes_per_s": far.speed if far else 0.0,
            "eta_s": far.eta if far else None,
            "error": self.error or None,
        }


class Downloads:
    """Knows the last downloads. Lives on the event loop.

    Args:
        fetch: fetches a file.
        refresh: has the lists of models take in what is new.
    """

    def __init__(self, fetch: FetchModel, refresh: Callable[[], Awaitable[None]]) -> None:
        self._fetch = fetch
        self._refresh = refresh
        self._known: dict[str, Download] = {}
        self._task: asyncio.Task[None] | None = None

    def all(self) -> tuple[Download, ...]:
        """The newest first."""
        return tuple(reversed(self._known.values()))

    def find(self, download_id: str) -> Download | None:
        """The download of that id; None if it is not known (any more)."""
        return self._known.get(download_id)

    @property
    def is_busy(self) -> bool:
        """Whether a file is being fetched."""
        return any(download.state == "running" for download in self._known.values())

    def begin(self, url: str, kind: ModelKind, sha256: str) -> Download:
        """Fetch a file; while none is being fetched.

        Raises:
            InvalidField: it is no address.
        """
        download = Download(uuid.uuid4().hex, shown_address(url), kind)
        self._known[download.id] = download
        while len(self._known) > MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._task = asyncio.create_task(self._run(download, url, sha256))
        return download

    async def cancel(self, download: Download) -> None:
        """End one, and wait for its end; what came is kept, for another try."""
        download.cancelled.set()
        if download.state == "running" and self._task is not None:
            await asyncio.wait({self._task})

    def forget(self, download: Download) -> None:
        """Take one that ended off the list."""
        self._known.pop(download.id, None)

    def close(self) -> None:
        """Let nothing go on when the server ends."""
        for download in self._known.values():
            download.cancelled.set()

    async def _run(self, download: Download, url: str, sha256: str) -> None:
        loop = asyncio.get_running_loop()

        def note(progress: Progress) -> None:
            download.progress = progress

        def progressed(progress: Progress) -> None:
            loop.call_soon_threadsafe(note, progress)

        try:
            path = await asyncio.to_thread(
                self._fetch, url, download.kind, sha256, progressed, download.cancelled
            )
            await self._refresh()
        except DownloadError as error:
            download.error = "" if download.cancelled.is_set() else str(error)
            download.state = "cancelled" if download.cancelled.is_set() else "failed"
        except Exception:
            log.exception("a download failed")
            download.error, download.state = "An internal error; the server's log says more.", "failed"
        else:
            download.name, download.state = path.name, "completed"


def shown_address(url: str) -> str:
    """An address without user, query and fragment, which may hold secrets.

    Raises:
        InvalidField: it is none of those that are fetched.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    is_plain = len(url) <= MAX_ADDRESS and url.isprintable() and " " not in url
    if not is_plain or parts.scheme.lower() not in SCHEMES or not host:
        message = f"'url' must be an https, http or hf address of at most {MAX_ADDRESS:,} characters."
        raise InvalidField("url", message)
    place = parts.netloc.rpartition("@")[2] if parts.scheme.lower() == "hf" else host
    return f"{parts.scheme.lower()}://{place}{f':{port}' if port else ''}{parts.path}"
