"""Mixed jobs with faults, to the real front: all are answered, and memory, descriptors and threads stay.

A sample here; `PYTHONPATH=tests/support python -m tests.soak.run --jobs 10000` goes on for longer.
"""

from pathlib import Path

import pytest

from tests.soak.footprints import Footprint
from tests.soak.run import soak

WARMING = Footprint(60_000_000, 16, 12)
"""What a front that has just begun may come to need from round to round."""


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_mixed_jobs_with_faults_leave_nothing_behind(tmp_path: Path) -> None:
    found = soak(tmp_path, rounds=3)
    print(found.told)  # noqa: T201 - the figures of docs/reliability.md
    assert found.complaints(WARMING) == []
    assert found.faults >= 2
    assert found.outcomes["plain right"] > 30
    assert found.uploaded > 10
    assert not [name for name in found.outcomes if "other" in name or "never" in name or "broke" in name]
