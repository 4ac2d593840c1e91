"""The spool: a folder of links that survives whatever happens to the process, within bounds."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until

from sdserver.ops.uploads.spool import DROPPED, FULL, PASSING, STALE_SECONDS, Spool
from sdserver.ops.uploads.target import key_of

Picture = Callable[[bytes], Path]


def a_spool(folder: Path, **fields: Any) -> Spool:
    return Spool(folder / "spool", **({"max_files": 100, "max_bytes": 10_000} | fields))


def contents(spool: Spool) -> list[bytes]:
    """What waits, in the order of taking; all of it waits again afterwards."""
    claims = []
    while claim := spool.take():
        claims.append(claim)
    found = [claim.read() for claim in claims]
    for claim in claims:
        spool.later(claim)
    return found


def test_what_is_saved_is_kept_as_it_was(tmp_path: Path, picture: Picture) -> None:
    spool = a_spool(tmp_path)
    deleted, replaced = picture(b"one"), picture(b"two")
    assert spool.add(deleted, "png") is None
    assert spool.add(replaced, "webp") is None
    deleted.unlink()
    other = picture(b"three")
    other.replace(replaced)
    first, second = spool.take(), spool.take()
    assert first is not None
    assert second is not None
    assert (first.read(), first.extension, second.read(), second.extension) == (b"one", "png", b"two", "webp")
    assert abs(first.saved_at - time.time()) < 60
    spool.done(first)
    spool.later(second)
    assert contents(spool) == [b"two"]
    assert spool.facts().files == 1
    assert spool.facts().bytes == 3


def test_nothing_is_copied_where_links_can_be_made(tmp_path: Path, picture: Picture) -> None:
    spool, path = a_spool(tmp_path), picture(b"x")
    spool.add(path, "png")
    (link,) = (tmp_path / "spool").iterdir()
    assert link.samefile(path)


def test_copies_stand_in_where_links_cannot_be_made(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    spool, path = a_spool(tmp_path), picture(b"x")
    assert spool.add(path, "png") is None
    path.unlink()
    assert contents(spool) == [b"x"]
    assert not list((tmp_path / "spool").glob(f"*{PASSING}"))


def test_a_later_process_finds_what_an_earlier_one_left(tmp_path: Path, picture: Picture) -> None:
    before = a_spool(tmp_path)
    for data in (b"1", b"22", b"333"):
        before.add(picture(data), "png")
    claim = before.take()
    assert claim is not None
    claim.file.close()  # as the death of its process does
    after = a_spool(tmp_path)
    assert contents(after) == [b"1", b"22", b"333"]
    facts = after.facts()
    assert (facts.files, facts.bytes) == (3, 6)


def test_what_is_no_picture_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / f"x{PASSING}").write_text("being copied")
    (folder / f"y{PASSING}").write_text("never finished")
    long_ago = time.time() - STALE_SECONDS - 10
    os.utime(folder / f"y{PASSING}", (long_ago, long_ago))
    assert a_spool(tmp_path).take() is None
    assert {path.name for path in folder.iterdir()} == {"notes.txt", f"x{PASSING}"}


@pytest.mark.parametrize("bounds", [{"max_files": 3}, {"max_bytes": 30}])
def test_full_the_oldest_go(tmp_path: Path, picture: Picture, bounds: dict[str, int]) -> None:
    spool = a_spool(tmp_path, **bounds)
    assert [spool.add(picture(b"%10d" % number), "png") for number in range(5)] == [None] * 3 + [DROPPED] * 2
    assert [int(data) for data in contents(spool)] == [2, 3, 4]
    facts = spool.facts()
    assert (facts.files, facts.bytes, facts.dropped, facts.refused) == (3, 30, 2, 0)
    assert len(list((tmp_path / "spool").iterdir())) == 3


@pytest.mark.parametrize("bounds", [{"max_files": 3}, {"max_bytes": 30}])
def test_full_the_newest_stay_out(tmp_path: Path, picture: Picture, bounds: dict[str, int]) -> None:
    spool = a_spool(tmp_path, when_full="newest", **bounds)
    assert [spool.add(picture(b"%10d" % number), "png") for number in range(5)] == [None] * 3 + [FULL] * 2
    assert [int(data) for data in contents(spool)] == [0, 1, 2]
    assert (spool.facts().dropped, spool.facts().refused) == (0, 2)


def test_one_that_could_never_fit_drops_nothing(tmp_path: Path, picture: Picture) -> None:
    spool = a_spool(tmp_path, max_bytes=30)
    spool.add(picture(b"small"), "png")
    assert spool.add(picture(bytes(31)), "png") == FULL
    assert contents(spool) == [b"small"]
    assert spool.facts().dropped == 0


def test_what_is_on_its_way_is_not_dropped(tmp_path: Path, picture: Picture) -> None:
    spool = a_spool(tmp_path, max_files=2)
    spool.add(picture(b"1"), "png")
    claim = spool.take()
    assert claim is not None
    spool.add(picture(b"2"), "png")
    assert spool.add(picture(b"3"), "png") == DROPPED
    assert contents(spool) == [b"3"]
    spool.done(claim)
    assert spool.facts().files == 1


def test_a_picture_that_cannot_be_linked_is_told_without_paths(tmp_path: Path, picture: Picture) -> None:
    spool = a_spool(tmp_path)
    told = spool.add(tmp_path / "nowhere.png", "png")
    assert told is not None
    assert "No such file" in told
    assert str(tmp_path) not in told
    assert spool.facts().refused == 1
    assert spool.facts().bytes == 0
    told = spool.add(picture(b"x"), "../x")
    assert told is not None
    assert contents(spool) == []


def test_a_removed_folder_is_made_again(tmp_path: Path, picture: Picture) -> None:
    spool = a_spool(tmp_path)
    (tmp_path / "spool").rmdir()
    assert spool.add(picture(b"x"), "png") is None
    assert contents(spool) == [b"x"]


def test_ages_and_a_clock_that_jumps(tmp_path: Path, picture: Picture) -> None:
    now = [1000.0]
    spool = a_spool(tmp_path, clock=lambda: now[0])
    assert spool.facts().oldest_seconds == 0
    spool.add(picture(b"1"), "png")
    now[0] += 7
    spool.add(picture(b"2"), "png")
    assert spool.facts().oldest_seconds == 7
    an_hour_on = a_spool(tmp_path, now=lambda: time.time() + 3600)
    assert 3600 <= an_hour_on.facts().oldest_seconds < 3700
    the_past = a_spool(tmp_path, now=lambda: time.time() - 3600)
    assert 0 <= the_past.facts().oldest_seconds < 100


def test_two_processes_share_the_work(tmp_path: Path, picture: Picture) -> None:
    ours = a_spool(tmp_path)
    for number in range(4):
        ours.add(picture(b"%d" % number), "png")
    theirs = a_spool(tmp_path)
    mine = ours.take()
    assert mine is not None
    taken = [theirs.take(), theirs.take(), theirs.take(), theirs.take()]
    assert [claim and claim.read() for claim in taken] == [b"1", b"2", b"3", None]
    assert ours.take() is None
    ours.done(mine)
    for claim in taken:
        if claim is not None:
            theirs.done(claim)
    ours.rescan()
    theirs.rescan()
    assert (ours.facts().files, theirs.facts().files) == (0, 0)
    assert (ours.facts().bytes, theirs.facts().bytes) == (0, 0)


def test_what_a_dead_process_left_is_found_by_its_neighbour(tmp_path: Path, picture: Picture) -> None:
    ours = a_spool(tmp_path)
    a_spool(tmp_path).add(picture(b"theirs"), "png")
    assert ours.take() is None
    ours.rescan()
    assert contents(ours) == [b"theirs"]


def test_one_that_goes_between_opening_and_locking_is_not_taken(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = a_spool(tmp_path)
    spool.add(picture(b"x"), "png")
    lock = fcntl.flock

    def uploaded_elsewhere_meanwhile(file: Any, how: int) -> None:
        for path in (tmp_path / "spool").iterdir():
            path.unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", uploaded_elsewhere_meanwhile)
    assert spool.take() is None
    assert (spool.facts().files, spool.facts().bytes) == (0, 0)


def test_a_rescan_in_the_middle_of_adding_counts_once(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, path, link = a_spool(tmp_path), picture(b"four"), os.link

    def link_and_rescan(source: Path, place: Path) -> None:
        link(source, place)
        spool.rescan()

    monkeypatch.setattr(os, "link", link_and_rescan)
    spool.add(path, "png")
    assert (spool.facts().files, spool.facts().bytes) == (1, 4)
    claim = spool.take()
    assert claim is not None
    spool.done(claim)
    assert (spool.facts().files, spool.facts().bytes) == (0, 0)


def test_threads(tmp_path: Path, picture: Picture) -> None:
    spool = a_spool(tmp_path, max_files=10_000)
    paths = [picture(b"%d" % number) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        scans = [pool.submit(spool.rescan) for _ in range(20)]
        told = list(pool.map(lambda path: spool.add(path, "png"), paths))
        for scan in scans:
            scan.result()
    assert told == [None] * 200
    assert spool.facts().files == 200
    assert spool.facts().bytes == sum(path.stat().st_size for path in paths)
    assert sorted(map(int, contents(spool))) == list(range(200))


@pytest.mark.parametrize("pause", [0.0, 0.003, 0.02])
def test_killed_at_any_moment_each_file_waits_whole(tmp_path: Path, pause: float) -> None:
    code = (
        "import sys; from pathlib import Path; from sdserver.ops.uploads.spool import Spool\n"
        "root = Path(sys.argv[1]); spool = Spool(root / 'spool', max_files=10**6, max_bytes=10**9)\n"
        "print('go', flush=True)\n"
        "for n in range(10**6):\n"
        "    path = root / f'{n}.png'; path.write_bytes(b'%8d' % n * 100); spool.add(path, 'png')\n"
        "    if n % 3 == 0 and (claim := spool.take()): spool.done(claim)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    wait_until(lambda: len(list((tmp_path / "spool").iterdir())) > 10)
    time.sleep(pause)
    process.kill()
    process.wait()
    process.stdout.close()
    spool = a_spool(tmp_path, max_files=10**6, max_bytes=10**9)
    found = contents(spool)
    assert len(found) > 5
    assert all(data == data[:8] * 100 for data in found)
    assert spool.facts().bytes == 800 * len(found)


def test_keys() -> None:
    key = key_of(b"x", "png", 86_400 * 365.25 * 30)
    assert key == "2000-01-01/2d711642b726b04401627ca9fbac32f5.png"
    assert key_of(b"x", "png", 86_400 * 365.25 * 30 + 5) == key
    assert key_of(b"y", "png", 86_400 * 365.25 * 30) != key
