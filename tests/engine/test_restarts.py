"""How long is waited between engines, and when no more are tried."""

import pytest

from sdserver.engine.restarts import MAX_DEATHS, MAX_DEATHS_LOADING, WINDOW_SECONDS, Restarts


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.restarts = Restarts(lambda: self.now, lambda: 1.0)

    def die(self, times: int = 1, every: float = 0.0) -> list[float]:
        pauses = []
        for _ in range(times):
            self.now += every
            pauses.append(self.restarts.died())
        return pauses


def test_pauses_double_up_to_a_minute_and_begin_anew_after_a_success() -> None:
    rig = Rig()
    assert rig.die(9) == [0.2, 1, 2, 4, 8, 16, 32, 60, 60]
    rig.restarts.loaded()
    assert rig.die() == [60], "that it loaded does not mean that it works"
    rig.restarts.made_something()
    assert rig.die(2) == [0.2, 1]


def test_real_pauses_are_spread() -> None:
    pauses = {Restarts().died() for _ in range(20)}
    assert len(pauses) > 10
    assert min(pauses) >= 0.16
    assert max(pauses) <= 0.24


def test_an_engine_that_cannot_load_again() -> None:
    rig = Rig()
    rig.restarts.loaded()
    rig.die(MAX_DEATHS_LOADING)
    assert not rig.restarts.cannot_load, "the first death was that of an engine that had loaded"
    rig.die()
    assert rig.restarts.cannot_load
    rig.restarts.loaded()
    assert not rig.restarts.cannot_load


@pytest.mark.parametrize("every", [1.0, WINDOW_SECONDS / MAX_DEATHS - 1])
def test_many_deaths_without_a_picture_are_too_many(every: float) -> None:
    rig = Rig()
    for _ in range(MAX_DEATHS - 1):
        rig.restarts.loaded()
        rig.die(every=every)
    assert not rig.restarts.are_no_use
    rig.die(every=every)
    assert rig.restarts.are_no_use


def test_seldom_deaths_and_those_between_pictures_are_not() -> None:
    rig = Rig()
    rig.die(3 * MAX_DEATHS, every=WINDOW_SECONDS / (MAX_DEATHS - 1) + 1)
    assert not rig.restarts.are_no_use
    rig = Rig()
    for _ in range(3 * MAX_DEATHS):
        rig.die()
        rig.restarts.made_something()
    assert not rig.restarts.are_no_use
