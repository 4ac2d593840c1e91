"""Whatever name a client sends in whatever field: no file outside the server's folders is touched.

Each field is sent a part of the names; `SDSERVER_WATCH_NAMES=12 scripts/test tests/security` sends all.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.watched import corpus

ROOT = Path(__file__).resolve().parents[2]
SHARE = int(os.environ.get("SDSERVER_WATCH_NAMES", "1"))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_no_name_leads_to_another_file_or_program_or_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.security.watched", str(tmp_path), str(SHARE)]
    environ = os.environ | {"PYTHONPATH": str(ROOT / "tests/support")}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    statuses = {int(status): count for status, count in found["statuses"].items()}
    print(f"{sum(statuses.values())} requests: {statuses}; files touched: {found['inside']}")  # noqa: T201
    assert found["outside"] == []
    assert found["told"] == 0
    assert found["measures"] == [f"open {tmp_path}/outside/secret.png"], "the measure measures"
    assert found["inside"] > 0
    assert sum(statuses.values()) > 500 * SHARE
    assert not {status for status in statuses if status >= 500} - {501, 503}
    assert statuses[200] > 50 * SHARE, "pictures are made, too"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "outside"]
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret.png"]


def test_the_names_are_of_every_kind(tmp_path: Path) -> None:
    names = corpus(tmp_path / "x", tmp_path)
    assert len(names) == len(set(names)) == 12
