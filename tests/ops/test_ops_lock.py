"""The lock of a download: flock where it works, the owner record where it does not."""

import dataclasses
import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from sdserver.errors import DownloadError
from sdserver.ops.downloads import lock
from sdserver.ops.downloads.limits import Limits, Pace, Terms
from sdserver.ops.downloads.lock import sole_owner


@pytest.fixture
def terms() -> Terms:
    limits = Limits(poll=0.01, stale_owner=2.0)
    return Terms(lambda _: None, threading.Event(), limits)


def hold(folder: Path, terms: Terms, log: list[str], name: str, seconds: float) -> threading.Thread:
    def run() -> None:
        with sole_owner(folder, "k", terms):
            log.append(f"{name} in")
            time.sleep(seconds)
            log.append(f"{name} out")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.fixture(params=["flock works", "flock lies", "no flock"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def lie(handle: int, operation: int) -> None:
        pass

    def refuse(handle: int, operation: int) -> None:
        raise OSError(lock.errno.ENOLCK, "No locks available")

    if request.param != "flock works":
        monkeypatch.setattr(fcntl, "flock", lie if request.param == "flock lies" else refuse)
    return str(request.param)


def test_one_after_the_other(tmp_path: Path, terms: Terms, file_system: str) -> None:
    log: list[str] = []
    # Longer than a silent owner would be believed: it touches its record.
    first = hold(tmp_path, terms, log, "first", 3.0)
    while not log:
        time.sleep(0.005)
    second = hold(tmp_path, terms, log, "second", 0)
    first.join()
    second.join()
    assert log == ["first in", "first out", "second in", "second out"]
    assert not (tmp_path / "k.owner").exists()


def leave(folder: Path, machine: str) -> None:
    (folder / "k.owner").write_text(json.dumps({"machine": machine, "pid": os.getpid()}))


@pytest.mark.parametrize(("machine", "waits"), [("here", False), ("elsewhere", True), ("unreadable", True)])
def test_what_a_dead_owner_left(tmp_path: Path, terms: Terms, machine: str, waits: bool) -> None:
    leave(tmp_path, lock._machine() if machine == "here" else machine)
    if machine == "unreadable":
        (tmp_path / "k.owner").write_text("")
    begin = time.monotonic()
    with sole_owner(tmp_path, "k", terms):
        waited = time.monotonic() - begin
    assert (waited >= 2.0) == waits


def test_waiting_can_be_cancelled(tmp_path: Path, terms: Terms) -> None:
    leave(tmp_path, "elsewhere")

    def cancel(seconds: float, cancelled: threading.Event) -> None:
        cancelled.set()

    limits = dataclasses.replace(terms.limits, pace=Pace(pause=cancel))
    with (
        pytest.raises(DownloadError, match="cancelled"),
        sole_owner(tmp_path, "k", dataclasses.replace(terms, limits=limits)),
    ):
        pass
    assert (tmp_path / "k.owner").exists()
