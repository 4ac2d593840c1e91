"""Mixed jobs with faults, to the real front: all are answered, and memory, descriptors and threads stay.

A sample here; `python -m tests.soak.run --minutes N` goes on for longer.
"""

from pathlib import Path

import pytest

from tests.soak.run import soak


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_mixed_jobs_with_faults_leave_nothing_behind(tmp_path: Path) -> None:
    found = soak(tmp_path, rounds=3, jobs=100, faults=1)
    print(found.told)  # noqa: T201 - the figures of docs/reliability.md
    assert found.wrong == []
    assert found.faults >= 2
    assert found.outcomes["plain right"] > 50
    assert not [name for name in found.outcomes if "other" in name or "never" in name]
    assert found.after.memory - found.before.memory < 60_000_000
    assert found.after.files <= found.before.files + 8
    assert found.after.threads <= found.before.threads + 4
    assert found.left == []
