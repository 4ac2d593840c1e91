"""The uploader: everything that waits arrives, whatever the store does; nothing waits for it."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from sdserver.ops.uploads.failure import UploadFailure
from sdserver.ops.uploads.spool import Spool
from sdserver.ops.uploads.uploader import Pace, Uploader
from tests.ops.uploads.conftest import ScriptedStore

Picture = Callable[[bytes], Path]
QUICK = Pace(first_backoff=0.01, last_backoff=0.05, hurried_backoff=0.01, timeout=PATIENCE)


class Rig:
    """An uploader with its spool; `run` lets it work while a test looks on."""

    def __init__(self, folder: Path, store: ScriptedStore, pace: Pace = QUICK, **bounds: Any) -> None:
        self.spool = Spool(folder / "spool", **({"max_files": 1000, "max_bytes": 10**6} | bounds))
        self.store = store
        self.uploader = Uploader(self.spool, store, "s3://bucket/", pace)

    def run(self, work: Callable[[], Awaitable[Any]]) -> None:
        async def live() -> None:
            self.uploader.start()
            async with asyncio.timeout(PATIENCE):
                await work()
            await self.uploader.stop()

        asyncio.run(live())
        assert self.store.is_closed

    async def done(self) -> None:
        assert await self.uploader.drained(PATIENCE)

    @property
    def results(self) -> dict[str, int]:
        return {key: value for key, value in self.uploader.facts().results.items() if value}


@pytest.fixture
def rig(tmp_path: Path, store: ScriptedStore) -> Rig:
    return Rig(tmp_path, store)


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():
        await asyncio.sleep(0.002)


def digests(store: ScriptedStore) -> set[str]:
    return {hashlib.sha256(data).hexdigest() for data, _ in store.objects.values()}


def test_what_is_added_arrives_under_its_hash(rig: Rig, picture: Picture) -> None:
    async def work() -> None:
        assert await asyncio.to_thread(rig.uploader.add, picture(b"one"), "png") is None
        await until(lambda: rig.store.objects)

    rig.run(work)
    ((key, (data, media_type)),) = rig.store.objects.items()
    assert (data, media_type) == (b"one", "image/png")
    assert key.endswith(f"/{hashlib.sha256(b'one').hexdigest()[:32]}.png")
    assert rig.results == {"stored": 1}
    assert rig.uploader.facts().files == 0


def test_what_an_earlier_process_left_is_sent_at_once(tmp_path: Path, picture: Picture, rig: Rig) -> None:
    for number in range(20):
        rig.spool.add(picture(b"%d" % number), "jpg")
    later = Rig(tmp_path, rig.store)
    later.run(later.done)
    assert len(rig.store.objects) == 20
    assert {media_type for _, media_type in rig.store.objects.values()} == {"image/jpeg"}
    assert 1 < rig.store.most_at_once <= 4
    assert list((tmp_path / "spool").iterdir()) == []


def test_failures_are_tried_again_until_all_is_there(rig: Rig, picture: Picture) -> None:
    rig.store.troubles = [
        UploadFailure("unreachable"),
        UploadFailure("denied"),
        ValueError("a bug"),
        UploadFailure("slow_down", retry_after=0.01),
        ConnectionResetError(),
    ]

    async def work() -> None:
        for number in range(10):
            rig.uploader.add(picture(b"%d" % number), "png")
        await until(lambda: len(rig.store.objects) == 10)

    rig.run(work)
    assert rig.results == {"stored": 10, "unreachable": 1, "denied": 1, "refused": 2, "slow_down": 1}


def test_a_store_that_is_down_is_asked_by_one_at_a_time(tmp_path: Path, picture: Picture) -> None:
    store, pauses = ScriptedStore(), []

    def between(low: float, high: float) -> float:
        pauses.append((low, high))
        return 0.001

    store.troubles = [UploadFailure("unreachable") for _ in range(12)]
    rig = Rig(tmp_path, store, Pace(between=between, last_backoff=300.0))
    for number in range(8):
        rig.spool.add(picture(b"%d" % number), "png")

    async def work() -> None:
        await until(lambda: len(store.objects) == 8)

    rig.run(work)
    # Four were on their way together and counted once; then one by one, after pauses that double.
    assert pauses == [(0.0, min(300.0, 2.0**power)) for power in range(9)]
    facts = rig.uploader.facts()
    assert (facts.error, facts.pause, facts.files) == (None, 0.0, 0)


def test_the_pause_is_told_and_kept(tmp_path: Path, picture: Picture, store: ScriptedStore) -> None:
    rig = Rig(tmp_path, store, Pace(between=lambda _low, _high: 60.0))
    store.troubles = [UploadFailure("slow_down", "503 SlowDown", retry_after=90.0)]

    async def work() -> None:
        rig.uploader.add(picture(b"x"), "png")
        await until(lambda: rig.uploader.facts().error)
        rig.uploader.add(picture(b"y"), "png")
        await asyncio.sleep(0.05)
        assert len(store.tries) == 1

    rig.run(work)
    facts = rig.uploader.facts()
    assert facts.error == "The store asks for fewer requests (503 SlowDown)."
    assert 60 < facts.pause <= 90
    assert (facts.files, facts.bytes) == (2, 2)


def test_one_that_the_store_never_takes_does_not_stop_the_others(rig: Rig, picture: Picture) -> None:
    rig.store.refuses = lambda data: data == b"poison"

    async def work() -> None:
        rig.uploader.add(picture(b"poison"), "png")
        for number in range(20):
            rig.uploader.add(picture(b"%d" % number), "png")
        await until(lambda: len(rig.store.objects) == 20)

    rig.run(work)
    assert rig.uploader.facts().files == 1


def test_a_put_that_never_ends_is_given_up(tmp_path: Path, picture: Picture, store: ScriptedStore) -> None:
    rig = Rig(tmp_path, store, Pace(timeout=0.02, first_backoff=0.01))

    async def work() -> None:
        store.held = asyncio.Event()
        rig.uploader.add(picture(b"x"), "png")
        await until(lambda: rig.results.get("timeout"))
        store.held.set()
        await until(lambda: store.objects)

    rig.run(work)


def test_the_end_hurries_and_leaves_the_rest(tmp_path: Path, picture: Picture, store: ScriptedStore) -> None:
    rig = Rig(
        tmp_path, store, Pace(between=lambda _low, high: high, first_backoff=60.0, hurried_backoff=0.01)
    )
    store.troubles = [UploadFailure("unreachable")] * 5

    async def work() -> None:
        rig.uploader.add(picture(b"x"), "png")
        await until(lambda: store.tries)
        assert await rig.uploader.drained(PATIENCE)
        store.troubles = [UploadFailure("unreachable")] * 10_000
        rig.uploader.add(picture(b"y"), "png")
        assert not await rig.uploader.drained(0.1)

    rig.run(work)
    assert len(store.objects) == 1
    again = Rig(tmp_path, store)
    store.troubles = []
    again.run(again.done)
    assert len(store.objects) == 2


def test_stopped_in_mid_upload_it_stays_for_later(rig: Rig, tmp_path: Path, picture: Picture) -> None:
    async def work() -> None:
        rig.store.held = asyncio.Event()
        for number in range(6):
            rig.uploader.add(picture(b"%d" % number), "png")
        await until(lambda: rig.store.at_once == 4)
        assert not await rig.uploader.drained(0.01)

    rig.run(work)
    assert rig.store.objects == {}
    rig.store.held = None
    again = Rig(tmp_path, rig.store)
    again.run(again.done)
    assert digests(rig.store) == {hashlib.sha256(b"%d" % number).hexdigest() for number in range(6)}


def test_neighbours_leftovers_are_found_in_time(
    tmp_path: Path, picture: Picture, store: ScriptedStore
) -> None:
    rig = Rig(tmp_path, store, Pace(rescan=0.02))

    async def work() -> None:
        await asyncio.sleep(0.01)
        Spool(tmp_path / "spool", max_files=10, max_bytes=1000).add(picture(b"x"), "png")
        await until(lambda: store.objects)

    rig.run(work)


def test_adding_never_waits_for_the_store(rig: Rig, picture: Picture) -> None:
    async def work() -> None:
        rig.store.held = asyncio.Event()
        for number in range(50):
            assert rig.uploader.add(picture(b"%d" % number), "png") is None
        await until(lambda: rig.store.at_once)
        assert rig.uploader.facts().files == 50

    rig.run(work)


def test_idle_it_does_nothing(tmp_path: Path, store: ScriptedStore) -> None:
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    rig = Rig(tmp_path, store, Pace(clock=clock))

    async def work() -> None:
        await asyncio.sleep(0.2)

    rig.run(work)
    assert looks < 10
