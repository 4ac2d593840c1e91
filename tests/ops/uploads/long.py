"""A store that is away for a minute, and resets what it does not refuse: are all pictures there afterwards?

    PYTHONPATH=tests/support .venv/bin/python -m tests.ops.uploads.long [--seconds 60] [--pictures 120]

Moto's server behind the fault proxy, the node's own pace. Ends with 1 if an object is missing or changed.
"""

import argparse
import asyncio
import hashlib
import itertools
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from fault_proxy import FaultProxy, Faults, fault_proxy
from object_stores import BUCKET, ObjectStore, moto

from sdserver.ops.uploads.facts import UploadFacts
from sdserver.ops.uploads.spool import Spool
from sdserver.ops.uploads.store import open_store
from sdserver.ops.uploads.target import parse_target
from sdserver.ops.uploads.uploader import Uploader

TROUBLES = (Faults(down=True), Faults(cut_after=100_000, reset=True), Faults(cut_answer_after=10))
LONGEST_SECONDS = 400.0


async def upload(
    folder: Path, real: ObjectStore, proxy: FaultProxy, seconds: float, count: int
) -> tuple[set[str], UploadFacts, float, float]:
    """Add pictures while the store is away.

    Returns:
        Their hashes, what the uploader says, the seconds of the longest `add` and of the rest.
    """
    os.environ |= real.environ(proxy.port)
    store = open_store(parse_target(f"s3://{BUCKET}/"), os.environ)
    uploader = Uploader(Spool(folder / "spool", max_files=10**5, max_bytes=10**9), store, "the store")
    uploader.start()
    digests, slowest = set(), 0.0
    for number, faults in zip(range(count), itertools.cycle(TROUBLES), strict=False):
        proxy.faults = faults
        data = random.Random(number).randbytes(500_000)
        path = folder / "one.png"
        path.write_bytes(data)
        digests.add(hashlib.sha256(data).hexdigest())
        began = time.perf_counter()
        assert uploader.add(path, "png") is None
        slowest = max(slowest, time.perf_counter() - began)
        path.unlink()
        await asyncio.sleep(seconds / count)
    proxy.faults = Faults()
    began = time.monotonic()
    while uploader.facts().files and time.monotonic() - began < LONGEST_SECONDS:
        await asyncio.sleep(0.05)
    rest = time.monotonic() - began
    await uploader.stop()
    return digests, uploader.facts(), slowest, rest


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pictures", type=int, default=120)
    given = parser.parse_args()
    with (
        moto() as real,
        fault_proxy(real.port) as proxy,
        tempfile.TemporaryDirectory() as folder,
    ):
        work = upload(Path(folder), real, proxy, given.seconds, given.pictures)
        digests, facts, slowest, rest = asyncio.run(work)
        found = {hashlib.sha256(data).hexdigest() for data in real.objects().values()}
    lines = [
        f"pictures {len(digests)}, objects {len(found)}, the same: {digests == found}",
        f"outcomes {dict(facts.results)}, left {facts.files}",
        f"longest add {slowest * 1e3:.2f} ms, all there {rest:.1f} s after the store came back",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if digests == found and not facts.files else 1


if __name__ == "__main__":
    sys.exit(main())
