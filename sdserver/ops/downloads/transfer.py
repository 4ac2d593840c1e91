"""One source, fetched into a part file: asked again after failures, from where it stopped."""

import errno
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

from sdserver.errors import DownloadError
from sdserver.ops.downloads.content import START, check_start
from sdserver.ops.downloads.disk import check_space
from sdserver.ops.downloads.http import Answer, TemporaryFailure, get, make_client, seconds_of
from sdserver.ops.downloads.limits import Terms, check_cancelled
from sdserver.ops.downloads.names import suggested_name
from sdserver.ops.downloads.part import Notes, Part
from sdserver.ops.downloads.progress import DownloadProgress, SpeedMeter
from sdserver.ops.downloads.sources import RemoteSource

logger = logging.getLogger(__name__)

RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
SHOWN_WINDOW = 10.0  # seconds of speed that people are told


class Transfer:
    """Fetches one source. Use once.

    Args:
        source: what to fetch.
        part: where to; stays open.
        received: bytes that came over the network before, from other sources.

    Attributes:
        received: the same, with this source's.
        expected: the digest that the file must have, None where nobody told one.
    """

    def __init__(self, source: RemoteSource, part: Part, received: int, terms: Terms) -> None:
        self._source = source
        self._part = part
        self._terms = terms
        self._limits = terms.limits
        self._now = terms.limits.pace.now
        self._shown = SpeedMeter(SHOWN_WINDOW, self._now)
        self._reported = -math.inf
        self.received = received
        self.expected = source.sha256

    def run(self) -> None:
        """Fetch until the part is complete.

        Raises:
            DownloadError: it cannot be fetched; what came is kept for another time.
        """
        failures, furthest = 0, self._part.size
        with make_client(self._limits) as client:
            while not self._part.complete:
                check_cancelled(self._terms.cancelled)
                try:
                    with get(client, self._source, self._headers(), self._limits) as answer:
                        self._receive(answer)
                except TemporaryFailure as failure:
                    self._part.sync()
                    # What is fetched again is no progress: it could go on like that for ever.
                    if not failure.slow and self._part.size - furthest >= self._limits.progress:
                        failures = 0
                    furthest = max(furthest, self._part.size)
                    failures += 1
                    self._pause(failure, failures)
        self._report()

    def _headers(self) -> Mapping[str, str]:
        """Ask for the rest, if it can be told that it is the rest of the same file."""
        part, notes = self._part, self._part.notes
        if notes is None or part.size == 0 or not (notes.validator or self.expected):
            return {}
        condition = {"if-range": notes.validator} if notes.validator else {}
        return {"range": f"bytes={part.size}-", **condition}

    def _receive(self, answer: Answer) -> None:
        self._check_digest(answer)
        self._begin(answer)
        part = self._part
        total = part.notes.total if part.notes else None
        check_space(part.path.parent, max(0, (total or 0) - part.size), self._limits.spare)
        start = b"" if part.size == 0 else None
        meter = SpeedMeter(self._limits.slow_window, self._now)
        for chunk in answer.response.iter_raw():
            check_cancelled(self._terms.cancelled)
            if start is not None:
                start = self._inspect(start + chunk, answer.host)
            self._write(chunk)
            meter.add(len(chunk))
            if meter.full and meter.speed < self._limits.slow_speed:
                raise TemporaryFailure(f"{answer.host} sends too slowly; try a mirror.", slow=True)
            self._report_sometimes()
        self._finish(answer)

    def _check_digest(self, answer: Answer) -> None:
        if answer.sha256 is None:
            return
        asked = self._source.sha256
        if asked is not None and answer.sha256 != asked:
            raise DownloadError(
                f"{self._source.host} has a file with another sha256 ({answer.sha256[:12]}...) than the one "
                "asked for; check the address, its revision and the digest."
            )
        if self.expected not in {None, answer.sha256}:
            self._part.forget()  # the file was replaced by another since the last try
        self.expected = answer.sha256

    def _begin(self, answer: Answer) -> None:
        """Bring the part into the state that the answer continues."""
        response, part = answer.response, self._part
        if response.status_code == 200:
            length = response.headers.get("content-length", "")
            part.restart(self._notes(answer, int(length) if length.isdecimal() else None))
            return
        notes = part.notes
        # A 416 has no span, nor has an answer of several ranges.
        span = RANGE.fullmatch(response.headers.get("content-range", ""))
        if span is None or notes is None or not self._continues(span, notes, answer):
            part.forget()
            raise TemporaryFailure(f"{answer.host} cannot continue this file; it is fetched anew.")
        if span[3] != "*":
            part.learn_total(int(span[3]))

    def _continues(self, span: re.Match[str], notes: Notes, answer: Answer) -> bool:
        begin, _, total = span.groups()
        known = {notes.total, None if total == "*" else int(total)} - {None}
        validator = _validator(answer)
        return (
            int(begin) == self._part.size
            and len(known) <= 1
            and (not notes.validator or not validator or validator == notes.validator)
        )

    def _notes(self, answer: Answer, total: int | None) -> Notes:
        disposition = answer.response.headers.get("content-disposition")
        name = suggested_name(disposition, (self._source.url, answer.url), f"model-{self._source.key[:8]}")
        return Notes(self._source.shown, name, _validator(answer), total, 0, None)

    def _inspect(self, start: bytes, host: str) -> bytes | None:
        """Look at the first bytes once they are there."""
        if len(start) < START:
            return start
        try:
            check_start(start[:64], host)
        except DownloadError:
            self._part.forget()
            raise
        return None

    def _write(self, chunk: bytes) -> None:
        self.received += len(chunk)
        self._shown.add(len(chunk))
        try:
            self._part.append(chunk)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                self._part.abandon()
                raise DownloadError(f"The disk of {self._part.path.parent} is full; make room.") from error
            raise

    def _finish(self, answer: Answer) -> None:
        part, notes = self._part, self._part.notes
        if notes is not None and notes.total is None:
            # A body without a length ends where the server says so; the file's own header is checked later.
            part.learn_total(part.size)
        elif not part.complete:
            if notes is not None and notes.total is not None and part.size > notes.total:
                part.forget()
            raise TemporaryFailure(f"{answer.host} sent a wrong number of bytes; try a mirror.")

    def _pause(self, failure: TemporaryFailure, failures: int) -> None:
        """Wait before the next try, or give up."""
        limits = self._limits
        if failures >= limits.attempts:
            raise DownloadError(f"{failure} It was tried {failures} times.") from failure
        if failure.retry_after > limits.longest_retry_after:
            raise DownloadError(f"{failure} It asks to wait {failure.retry_after:.0f} s.") from failure
        longest = min(limits.last_backoff, limits.first_backoff * 2 ** (failures - 1))
        seconds = max(failure.retry_after, limits.pace.between(0.0, longest))
        logger.warning(
            "%s Trying again in %.1f s (%d of %d).", failure, seconds, failures, limits.attempts - 1
        )
        self._terms.pause(seconds)

    def _report_sometimes(self) -> None:
        if self._now() - self._reported >= self._limits.report_every:
            self._report()

    def _report(self) -> None:
        self._reported = self._now()
        part, notes = self._part, self._part.notes
        total = notes.total if notes else None
        name = notes.name if notes else Path(self._source.shown).name
        speed = self._shown.speed
        left = None if total is None else max(0, total - part.size)
        eta = left / speed if left is not None and speed > 0 else None
        self._terms.progress(
            DownloadProgress(name, part.size, total, speed, 0.0 if left == 0 else eta, self.received)
        )


def _validator(answer: Answer) -> str:
    """A strong ETag, else the time of the last change, else "".

    Weak tags do not promise equal bytes, nor does a time within the second of the answer, for the file may
    change once more in it (RFC 9110, 8.8.2.2).
    """
    headers = answer.response.headers
    tag = str(headers.get("etag", ""))
    if tag.startswith('"'):
        return tag
    changed = str(headers.get("last-modified", ""))
    changed_at, sent_at = seconds_of(changed), seconds_of(str(headers.get("date", "")))
    return changed if changed_at is not None and sent_at is not None and sent_at - changed_at >= 1 else ""
