"""Messages leave in order, news several at a time, what somebody waits for at once."""

import queue
import threading
import time

import pytest
from patience import PATIENCE

from sdserver.engine import outbox as outbox_module
from sdserver.engine.messages import BatchRan, FromEngine, Unloaded
from sdserver.engine.outbox import Outbox
from sdserver.errors import EngineFailure
from sdserver.jobs.events import Cancelled, Progress, Started

STILL = 1e9


class Front:
    """Takes what is sent; while it is `shut`, the sender waits."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.sent: queue.Queue[list[FromEngine]] = queue.Queue()

    def take(self, messages: list[FromEngine]) -> None:
        self.open.wait(PATIENCE)
        self.sent.put(messages)

    def got(self) -> list[FromEngine]:
        return self.sent.get(timeout=PATIENCE)


def test_the_first_news_is_sent_at_once_and_the_rest_with_an_end() -> None:
    front = Front()
    outbox = Outbox(front.take, clock=lambda: STILL)
    outbox.emit(Started("a"))
    assert front.got() == [Started("a")]
    news: list[FromEngine] = [BatchRan("predict", rows, 0.1) for rows in range(9)]
    for message in [*news, Cancelled("a")]:
        outbox.emit(message)
    received: list[FromEngine] = []
    while Cancelled("a") not in received:
        received += front.got()
    assert received == [*news, Cancelled("a")]
    outbox.close()


def test_of_progress_that_waits_the_last_is_sent_of_each_job() -> None:
    front = Front()
    front.open.clear()
    outbox = Outbox(front.take)
    outbox.emit(Unloaded())
    while outbox._held:
        time.sleep(0.001)
    for step in (1, 2, 3):
        outbox.emit(Progress("a", step, 9))
        outbox.emit(BatchRan("predict", step, 0.1))
        outbox.emit(Progress("b", 2 * step, 9))
    outbox.emit(Cancelled("a"))
    front.open.set()
    assert front.got() == [Unloaded()]
    ran = [BatchRan("predict", rows, 0.1) for rows in (1, 2, 3)]
    last = [Progress("a", 3, 9), ran[2], Progress("b", 6, 9), Cancelled("a")]
    assert front.got() == [*ran[:2], *last]
    outbox.close()


def test_news_within_a_pause_is_held_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that stands still the pause after the first lasts its full time."""
    monkeypatch.setattr(outbox_module, "PAUSE_SECONDS", 2.0)
    front = Front()
    outbox = Outbox(front.take, clock=lambda: STILL)
    outbox.emit(Started("a"))
    front.got()
    outbox.emit(BatchRan("text", 1, 0.1))
    with pytest.raises(queue.Empty):
        front.sent.get(timeout=0.2)
    outbox.emit(Progress("a", 1, 2))
    assert front.got() == [BatchRan("text", 1, 0.1), Progress("a", 1, 2)]
    outbox.close()


def test_a_front_that_does_not_read_holds_up_nobody() -> None:
    front = Front()
    front.open.clear()
    outbox = Outbox(front.take)
    many: list[FromEngine] = [Cancelled(str(number)) for number in range(100)]
    for message in many:
        outbox.emit(message)
    assert front.sent.empty()
    front.open.set()
    outbox.close()
    assert [message for _ in range(front.sent.qsize()) for message in front.got()] == many


def test_the_end_sends_what_is_held() -> None:
    front = Front()
    outbox = Outbox(front.take, clock=lambda: STILL)
    outbox.emit(Started("a"))
    front.got()
    outbox.emit(Progress("a", 1, 2))
    outbox.close()
    assert front.got() == [Progress("a", 1, 2)]


def test_a_front_that_is_gone_ends_it_quietly() -> None:
    def refuse(messages: list[FromEngine]) -> None:
        raise BrokenPipeError

    outbox = Outbox(refuse)
    outbox.emit(Unloaded())
    outbox.close()
    outbox.emit(Unloaded())


def test_a_message_that_cannot_be_sent_ends_the_engine() -> None:
    """Its job must not wait for ever: the process ends by the error, and the next one runs the job."""

    def refuse(messages: list[FromEngine]) -> None:
        raise TypeError("cannot pickle")

    outbox = Outbox(refuse)
    outbox.emit(Unloaded())
    outbox.close()
    with pytest.raises(EngineFailure):
        outbox.emit(Unloaded())
