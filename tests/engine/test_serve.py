"""The loop of an engine process: how often it beats."""

import queue
import threading
import time

import pytest
from patience import PATIENCE, wait_until

from sdserver.engine import process
from sdserver.engine.messages import Beat, FromEngine, MemoryFacts, Shutdown, ToEngine, Unload

MEMORY = MemoryFacts(None, None, None, None)


class Work:
    """An engine that is busy for some steps after each Unload."""

    running = waiting = 0

    def __init__(self, steps: int) -> None:
        self.seconds = 0.0
        self._steps = steps
        self._left = 0

    @property
    def busy(self) -> bool:
        return self._left > 0

    def unload(self) -> None:
        self._left = self._steps

    def step(self) -> None:
        began = time.monotonic()
        time.sleep(0.01)
        self._left -= 1
        self.seconds += time.monotonic() - began


def beats_of(engine: Work, seconds: float, *messages: ToEngine) -> int:
    """How often the loop beats until so many seconds after it was given messages and first rested."""
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    told: list[FromEngine] = []
    arguments = (engine, inbox, told.append, lambda: MEMORY)
    thread = threading.Thread(target=process.serve, args=arguments)
    thread.start()
    for message in messages:
        inbox.put(message)
    wait_until(lambda: told and inbox.empty() and not engine.busy)
    time.sleep(seconds)
    found = len(told)
    inbox.put(Shutdown())
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert told == [Beat(MEMORY, 0, 0)] * len(told)
    return found


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(process, "IDLE_BEAT_SECONDS", 5.0)


def test_an_idle_engine_beats_seldom() -> None:
    assert beats_of(Work(0), 0.5) == 1


def test_a_busy_engine_beats_often_and_once_more_when_it_rests() -> None:
    engine = Work(30)
    beats = beats_of(engine, 0.7, Unload())
    assert 3 <= beats <= engine.seconds / process.BEAT_SECONDS + 3
