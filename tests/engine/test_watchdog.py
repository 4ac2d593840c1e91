"""When silence is a hang."""

import pytest

from sdserver.engine.messages import (
    BatchRan,
    Beat,
    Load,
    Loaded,
    LoadFailed,
    Logged,
    LongCall,
    MemoryFacts,
    Pulse,
    Stop,
    Submit,
    Unload,
    Unloaded,
)
from sdserver.engine.watchdog import (
    ACCELERATOR_SECONDS,
    CPU_SECONDS,
    REST_SECONDS,
    START_SECONDS,
    Watchdog,
)
from sdserver.jobs.events import Cancelled, Failed, Finished, Picture, Started
from sdserver.jobs.job import Enlarge, Size

PICTURE = Picture(1, 1, b"abc")
RESTS = Beat(MemoryFacts(None, None, None, None), 0, 0)
WORKS = Beat(MemoryFacts(None, None, None, None), 1, 0)


def job(name: str) -> Submit:
    return Submit(Enlarge(name, PICTURE, Size(2, 2), "None", ""))


def loaded(device: str) -> Loaded:
    return Loaded("/m", "sd1", device, "float32", 1.0)


class Rig:
    """A watchdog that is asked as often as it wants to be."""

    def __init__(self, limit: float = 0.0) -> None:
        self.now = 100.0
        self.dog = Watchdog(limit, lambda: self.now)

    def hangs_after(self, most: float = 10_000) -> float | None:
        """Seconds of silence until the watchdog says so, None if it never does."""
        began = self.now
        while self.now - began < most:
            self.now += self.dog.pause
            if self.dog.look() is not None:
                return self.now - began
        return None


def test_a_silent_engine_with_work_hangs_within_the_limit_and_a_second() -> None:
    for limit in (0.4, 3.0, 47.0):
        rig = Rig(limit)
        rig.dog.heard(RESTS)
        rig.dog.sent(job("a"))
        found = rig.hangs_after()
        assert found is not None
        assert limit < found <= limit + 1


def test_everything_that_it_says_shows_that_it_lives() -> None:
    rig = Rig(5)
    rig.dog.sent(job("a"))
    for message in (WORKS, Started("a"), BatchRan("predict", 1, 0.1), loaded("cpu"), WORKS):
        rig.dog.heard(message)
        assert rig.hangs_after(4.9) is None
    found = rig.hangs_after()
    assert found is not None
    assert found < 2


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (job("a"), Finished("a", PICTURE)),
        (job("a"), Failed("a", "EngineFailure", "")),
        (job("a"), Cancelled("a")),
        (Load("/m"), loaded("cpu")),
        (Load("/m"), LoadFailed("/m", "CheckpointError", "")),
        (Unload(), Unloaded()),
    ],
)
def test_an_engine_without_work_may_be_silent_for_longer(sent: Submit, answer: Finished) -> None:
    rig = Rig(2)
    rig.dog.heard(RESTS)
    assert not rig.dog.is_busy
    rig.dog.sent(Stop("other", "drop"))
    assert not rig.dog.is_busy
    rig.dog.sent(sent)
    assert rig.dog.is_busy
    assert rig.dog.limit == 2
    rig.dog.heard(answer)
    assert not rig.dog.is_busy
    assert rig.dog.limit == REST_SECONDS
    found = rig.hangs_after()
    assert found is not None
    assert REST_SECONDS < found <= REST_SECONDS + 5


def test_work_that_comes_after_a_rest_begins_a_new_silence() -> None:
    rig = Rig(2)
    rig.dog.heard(RESTS)
    assert rig.hangs_after(20) is None
    rig.dog.sent(job("a"))
    assert rig.hangs_after(1.9) is None


def test_what_was_lost_on_the_way_is_not_waited_for() -> None:
    rig = Rig(2)
    rig.dog.sent(job("a"))
    rig.dog.heard(RESTS)
    assert rig.dog.is_busy, "it may not have come there yet"
    for _ in range(4):
        rig.now += 1.5
        rig.dog.heard(RESTS)
    assert not rig.dog.is_busy


def test_a_process_may_take_long_to_begin_and_announced_calls_too() -> None:
    rig = Rig(2)
    assert rig.dog.limit == START_SECONDS
    rig.dog.sent(Load("/m"))
    rig.dog.heard(LongCall("load", 300))
    assert rig.dog.limit == 300
    rig.dog.heard(loaded("cpu"))
    rig.dog.sent(job("a"))
    assert rig.dog.limit == 2


def test_in_a_long_call_the_process_must_show_that_it_lives() -> None:
    rig = Rig(3)
    rig.dog.sent(job("a"))
    rig.dog.heard(LongCall("first", 60))
    for _ in range(25):
        assert rig.hangs_after(2) is None
        rig.dog.heard(Pulse())
        rig.dog.heard(Logged("x", 20, "compiling"))
    found = rig.hangs_after()
    assert found is not None
    assert 3 < found <= 4
    rig.dog.heard(WORKS)
    rig.dog.heard(LongCall("first", 60))
    began = rig.now
    while rig.hangs_after(1) is None:
        rig.dog.heard(Pulse())
        assert rig.now < began + 100
    assert 60 < rig.now - began <= 61, "the call itself takes too long"


def test_what_another_thread_says_is_no_sign_of_the_device() -> None:
    rig = Rig(3)
    rig.dog.heard(WORKS)
    rig.dog.sent(job("a"))
    began = rig.now
    while rig.hangs_after(1) is None:
        rig.dog.heard(Logged("x", 20, "still here"))
        rig.dog.heard(Pulse())
        assert rig.now < began + 100
    assert 3 < rig.now - began <= 4


def test_the_limit_is_found_by_device_and_batches() -> None:
    rig = Rig()
    rig.dog.heard(loaded("cpu"))
    rig.dog.sent(job("a"))
    assert rig.dog.limit == CPU_SECONDS
    rig.dog.heard(loaded("cuda:0"))
    assert rig.dog.limit == ACCELERATOR_SECONDS
    for seconds in (8.0, 10.0, 0.01):
        rig.dog.heard(BatchRan("predict", 2, seconds))
    assert rig.dog.limit == 20 * 8.0
    rig.dog.heard(BatchRan("decode", 1, 90.0))
    assert rig.dog.limit == 5 * 90.0


def test_a_limit_that_was_given_gives_way_to_slow_batches() -> None:
    rig = Rig(3)
    rig.dog.heard(loaded("cpu"))
    rig.dog.sent(job("a"))
    assert rig.dog.limit == 3
    for _ in range(3):
        rig.dog.heard(BatchRan("predict", 2, 1.0))
    rig.dog.heard(BatchRan("predict", 2, 100.0))
    assert rig.dog.limit == 20


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The machine slept, or this process did: the engine could not have been heard."""
    rig = Rig(10)
    rig.dog.heard(RESTS)
    rig.dog.sent(job("a"))
    rig.now += 5000
    assert rig.dog.look() is None
    found = rig.hangs_after()
    assert found is not None
    assert 7 < found <= 11


def test_a_new_process_begins_anew() -> None:
    rig = Rig(2)
    rig.dog.heard(RESTS)
    rig.dog.sent(job("a"))
    assert rig.hangs_after() is not None
    rig.dog.started()
    assert not rig.dog.is_busy
    assert rig.dog.limit == START_SECONDS
    assert rig.dog.look() is None
