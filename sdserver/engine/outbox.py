"""Messages on their way from the engine to the front: sent by a thread of their own, several at a time."""

import threading
import time
from collections.abc import Callable
from typing import Final

from sdserver.engine.messages import BatchRan, FromEngine, Logged, LongCall, Mended, Pulse
from sdserver.errors import EngineFailure
from sdserver.jobs.events import Previewed, Progress, Started

PAUSE_SECONDS: Final = 0.05
"""How long news that nobody waits for may be held, so that many cross at once."""
_NEWS: Final = (BatchRan, Logged, LongCall, Mended, Previewed, Pulse, Progress, Started)


class Outbox:
    """Takes the engine's messages at once and sends them in their order.

    The first news after a pause is sent at once; what follows within `PAUSE_SECONDS` waits until they are
    over, or for a message that somebody waits for: a job's end, an answer. Each transmission wakes the
    front, and would interrupt the engine. Of several reports on a job's progress that wait, the last is sent.

    Args:
        send: passes messages on, and may wait for the other side; raises OSError when that is gone.
        clock: seconds, monotonic.
    """

    def __init__(
        self, send: Callable[[list[FromEngine]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._clock = clock
        self._held: list[FromEngine] = []
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._hurry = threading.Event()
        self._ended = False
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="engine-outbox")
        self._thread.start()

    def emit(self, message: FromEngine) -> None:
        """Take a message, without waiting for anybody.

        Raises:
            EngineFailure: an earlier message could not be sent: the front must not wait for it.
        """
        if self._fault is not None:
            raise EngineFailure("A message could not be sent.") from self._fault
        with self._lock:
            self._held.append(message)
        if not isinstance(message, _NEWS):
            self._hurry.set()
        if not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Send what is held; return when it is sent, or nobody is there to take it."""
        self._ended = True
        self._hurry.set()
        self._some.set()
        self._thread.join()

    def _run(self) -> None:
        sent_at = -PAUSE_SECONDS
        try:
            while not self._ended:
                self._some.wait()
                self._hurry.wait(max(0.0, sent_at + PAUSE_SECONDS - self._clock()))
                self._some.clear()
                self._hurry.clear()
                self._flush()
                sent_at = self._clock()
            self._flush()
        except OSError:
            pass  # the front is gone, and with it whoever would read this
        except Exception as error:  # noqa: BLE001 - raised where the engine's thread sees it
            self._fault = error

    def _flush(self) -> None:
        with self._lock:
            messages, self._held = self._held, []
        if messages:
            self._send(_current(messages))


def _current(messages: list[FromEngine]) -> list[FromEngine]:
    """The messages without reports of progress that a later one replaces."""
    last = {message.job: message for message in messages if isinstance(message, Progress)}
    return [
        message for message in messages if not isinstance(message, Progress) or last[message.job] is message
    ]
