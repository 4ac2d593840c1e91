"""Uploads to real object stores: moto's server, which checks signatures, and s3rver."""

import asyncio
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Faults, fault_proxy
from object_stores import BUCKET, ObjectStore, moto, s3rver
from patience import PATIENCE

from sdserver.ops.uploads.failure import UploadFailure
from sdserver.ops.uploads.spool import Spool
from sdserver.ops.uploads.store import Store, open_store
from sdserver.ops.uploads.target import parse_target
from sdserver.ops.uploads.uploader import Pace, Uploader

QUICK = Pace(first_backoff=0.05, last_backoff=0.5, timeout=3.0)


@pytest.fixture(scope="module", params=["moto", "s3rver"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    if request.param == "moto":
        with moto() as found:
            yield found
        return
    if shutil.which("npm") is None:
        pytest.skip("npm is missing, which installs s3rver")
    with s3rver(tmp_path_factory.mktemp("s3rver")) as found:
        yield found


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def opened(
    real: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    *,
    port: int | None = None,
    bucket: str = BUCKET,
    **variables: str,
) -> Store:
    """The store as a node opens it, keys in the environment."""
    environ = real.environ(port) | variables
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return open_store(parse_target(f"s3://{bucket}/{prefix}"), environ)


def failure_to_put(store: Store) -> UploadFailure:
    with pytest.raises(UploadFailure) as told:
        asyncio.run(store.put("k.png", b"x", "image/png"))
    return told.value


def test_an_object_is_as_it_was_sent(real: ObjectStore, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    store = opened(real, monkeypatch, prefix)
    data = bytes(range(256)) * 40_000  # of 10 MB: more than a part of a multipart upload
    asyncio.run(store.put("2026-01-01/a.png", data, "image/png"))
    asyncio.run(store.put("2026-01-01/a.png", data, "image/png"))
    assert real.objects(prefix) == {f"{prefix}/2026-01-01/a.png": data}
    head = real.client().head_object(Bucket=BUCKET, Key=f"{prefix}/2026-01-01/a.png")
    assert head["ContentType"] == "image/png"
    assert head["Metadata"] == {}
    if real.secret != "S3RVER":  # which cannot tell
        assert real.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


def test_wrong_keys_are_told(real: ObjectStore, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    store = opened(real, monkeypatch, prefix, AWS_ACCESS_KEY_ID="AKIANOBODY")
    failure = failure_to_put(store)
    assert failure.reason == "denied"
    assert "403 InvalidAccessKeyId" in str(failure)


def test_a_wrong_secret_is_told_and_not_shown(
    real: ObjectStore, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    if real.secret == "S3RVER":
        pytest.skip("s3rver takes any secret of a known user; moto checks it")
    failure = failure_to_put(opened(real, monkeypatch, prefix, AWS_SECRET_ACCESS_KEY="canary-7f3a"))
    assert failure.reason == "denied"
    assert "SignatureDoesNotMatch" in str(failure)
    assert "canary" not in str(failure)


def test_a_missing_bucket_is_told(real: ObjectStore, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    failure = failure_to_put(opened(real, monkeypatch, prefix, bucket="nowhere"))
    assert failure.reason == "missing"
    assert "NoSuchBucket" in str(failure)


def test_a_store_that_is_away_or_silent_is_told(
    real: ObjectStore, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    with fault_proxy(real.port, Faults(down=True)) as proxy:
        store = opened(real, monkeypatch, prefix, port=proxy.port)
        assert failure_to_put(store).reason == "unreachable"


def upload_all(store: Store, folder: Path, pictures: list[bytes], proxy: FaultProxy) -> Uploader:
    """Add pictures to a broken network; mend it when that was noticed, and wait until all have arrived."""
    spool = Spool(folder / "spool", max_files=1000, max_bytes=10**8)
    uploader = Uploader(spool, store, "s3://", QUICK)

    async def work() -> None:
        uploader.start()
        for number, data in enumerate(pictures):
            path = folder / f"{number}.png"
            path.write_bytes(data)
            assert uploader.add(path, "png") is None
            path.unlink()
            await asyncio.sleep(0.1)
        async with asyncio.timeout(PATIENCE):
            while failures(uploader) == 0:
                await asyncio.sleep(0.01)
        proxy.faults = Faults()
        assert await uploader.drained(PATIENCE)
        await uploader.stop()

    asyncio.run(work())
    return uploader


def failures(uploader: Uploader) -> int:
    results = uploader.facts().results
    return results.get("unreachable", 0) + results.get("timeout", 0)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(down=True),
        Faults(cut_after=30_000),
        Faults(cut_after=30_000, reset=True),
        Faults(cut_answer_after=5),
        Faults(silent=True),
    ],
    ids=["down", "cut", "reset", "cut answer", "silent"],
)
def test_through_a_broken_network_objects_are_the_pictures(
    real: ObjectStore, monkeypatch: pytest.MonkeyPatch, prefix: str, tmp_path: Path, faults: Faults
) -> None:
    pictures = [bytes([number]) * 50_000 for number in range(12)]
    with fault_proxy(real.port, faults) as proxy:
        store = opened(real, monkeypatch, prefix, port=proxy.port)
        uploader = upload_all(store, tmp_path, pictures, proxy)
    found = real.objects(prefix)
    assert sorted(found.values()) == pictures
    for key, data in found.items():
        assert key.rpartition("/")[2] == f"{hashlib.sha256(data).hexdigest()[:32]}.png"
    facts = uploader.facts()
    assert facts.results["stored"] == len(pictures)
    assert failures(uploader) >= 1
    assert (facts.files, facts.bytes) == (0, 0)
