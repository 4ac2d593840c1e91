"""What processes computed and how long they waited for a processor, over any stretch of time."""

import asyncio
import bisect
import time
from dataclasses import dataclass, fields
from pathlib import Path

PERIOD = 0.25


@dataclass(frozen=True, slots=True)
class Used:
    """Since the processes began, or between two moments.

    Attributes:
        seconds: on the wall's clock.
        server: CPU seconds of the server.
        server_waited: seconds for which its threads were ready to run, and others ran.
        client: CPU seconds of this process.
        client_waited: as the server's.
    """

    seconds: float
    server: float
    server_waited: float
    client: float
    client_waited: float

    def since(self, other: "Used") -> "Used":
        return Used(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(Used)))

    def __str__(self) -> str:
        return (
            f"{self.seconds:.2f} s (server: {self.server:.2f} s of CPU, {self.server_waited:.2f} s waited for"
            f" one; client: {self.client:.2f} and {self.client_waited:.2f} s)"
        )


class Clocks:
    """Looks at this process and the server's, several times a second while `run` runs."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._seen = [self.now()]

    def now(self) -> Used:
        return Used(time.monotonic(), *_scheduled(self._server), *_scheduled("self"))

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            self._seen.append(self.now())

    def since(self, moment: float) -> Used:
        """What was used since then, at most so much more as was used within a period."""
        place = bisect.bisect_right(self._seen, moment, key=lambda each: each.seconds)
        return self.now().since(self._seen[max(place - 1, 0)])


def _scheduled(process: int | str) -> tuple[float, float]:
    """Of all threads that are there: CPU seconds, and seconds ready to run and not run."""
    ran = waited = 0
    for file in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            words = file.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ran, waited = ran + int(words[0]), waited + int(words[1])
    return ran / 1e9, waited / 1e9
