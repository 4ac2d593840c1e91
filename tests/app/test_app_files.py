"""As many files as connections may need."""

import resource

import pytest

from sdserver.app.servers import OTHER_FILES, allow_files

NEEDED = 4 * 512 + OTHER_FILES
INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "changed", "is_told"),
    [
        ((1024, 4096), (NEEDED, 4096), False),
        ((1024, INFINITE), (NEEDED, INFINITE), False),
        ((1024, 2000), (2000, 2000), True),
        ((2000, 2000), (2000, 2000), True),
        ((NEEDED, NEEDED), None, False),
        ((INFINITE, INFINITE), None, False),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    changed: tuple[int, int] | None,
    is_told: bool,
) -> None:
    made: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_NOFILE: limits}.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", lambda *given: made.append(given))
    told = allow_files(512)
    assert made == ([] if changed is None else [(resource.RLIMIT_NOFILE, changed)])
    assert bool(told) == is_told
    if told:
        assert told.startswith(
            f"This process may open 2000 files, and 512 connections for each port may need {NEEDED}"
        )
