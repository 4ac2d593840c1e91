"""A download's progress on the terminal, or as a few lines in a log file."""

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from sdserver.ops.downloads.progress import DownloadProgress

BAR_EVERY = 0.2  # seconds between two drawings on a terminal
LINE_EVERY = 5.0  # seconds between two lines elsewhere, at least
LINE_SHARE = 0.1  # of the file, between two lines, unless ...
LINE_AT_LEAST_EVERY = 60.0  # ... so much time passed: a slow download must not look dead


class ProgressPrinter:
    """Shows progress: call it with each `DownloadProgress`.

    Args:
        stream: where to; a terminal gets a bar that is drawn over, anything else plain lines.
        clock: monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._last: tuple[float, DownloadProgress] | None = None

    def __call__(self, progress: DownloadProgress) -> None:
        now = self._clock()
        ended = progress.done == progress.total
        if self._is_terminal:
            self._draw(progress, now, ended)
        elif self._is_due(progress, now, ended):
            self._last = (now, progress)
            self._write(f"Downloading {describe(progress)}\n")

    def _is_due(self, progress: DownloadProgress, now: float, ended: bool) -> bool:
        if self._last is None:
            return True
        then, shown = self._last
        if progress.file != shown.file:
            return True
        if ended:
            return shown.done != progress.done
        gained = progress.done - shown.done
        much = progress.total is None or gained >= LINE_SHARE * progress.total
        return (now - then >= LINE_EVERY and much) or now - then >= LINE_AT_LEAST_EVERY

    def _draw(self, progress: DownloadProgress, now: float, ended: bool) -> None:
        if not ended and self._last is not None and now - self._last[0] < BAR_EVERY:
            return
        self._last = (now, progress)
        width = shutil.get_terminal_size().columns - 1
        text = describe(progress)
        room = width - len(text) - 3
        if progress.total and room >= 10:
            filled = round(room * min(1.0, progress.done / progress.total))
            text = f"[{'#' * filled}{'.' * (room - filled)}] {text}"
        self._write(f"\r{text[:width].ljust(width)}" + ("\n" if ended else ""))

    def _write(self, text: str) -> None:
        # A log file's encoding may not know the file's name.
        encoding = self._stream.encoding or "ascii"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


def describe(progress: DownloadProgress) -> str:
    """One line: file, share, size, speed, time left."""
    parts = [f"{progress.done / 1e6:.0f} MB"]
    if progress.total:
        share = f"{100 * progress.done / progress.total:.0f} %"
        parts = [share, f"{progress.done / 1e6:.0f} of {progress.total / 1e6:.0f} MB"]
    parts.append(f"{progress.speed / 1e6:.1f} MB/s")
    if progress.eta:
        parts.append(f"{progress.eta:.0f} s left")
    return f"{progress.file}: {', '.join(parts)}"
