"""Downloads that are cut, killed, and wanted by eight processes at once: each arrives whole, fetched once.

A sample here; `PYTHONPATH=tests/support .venv/bin/python -m tests.soak.downloads` is the whole.
"""

from pathlib import Path

import pytest

from tests.soak.downloads import MIB, cut_downloads, kill_downloads, together

SEED = 67
"""With which the sample has every kind of fault."""


@pytest.mark.slow
def test_cut_at_random_bytes_by_servers_of_all_kinds(tmp_path: Path) -> None:
    found = cut_downloads(tmp_path, SEED, cuts=15, per_file=3)
    print(found)  # noqa: T201 - the figures of docs/reliability.md
    assert found.files == 5
    assert sum(found.faults[kind] for kind in ("cut", "reset", "stall")) == 15
    assert len(found.faults) == 8


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    found = kill_downloads(tmp_path, SEED, kills=5)
    print(found)  # noqa: T201
    assert found.faults["SIGKILL"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 1])
def test_eight_at_once_fetch_once(tmp_path: Path, kills: int) -> None:
    found = together(tmp_path, SEED, kills, size=4 * MIB)
    print(found)  # noqa: T201
    assert found.faults["SIGKILL"] == kills
    assert found.sent == found.size or kills
