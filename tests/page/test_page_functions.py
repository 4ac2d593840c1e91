"""The page's pure functions, tested by node's own test runner."""

import shutil
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "sdserver" / "web" / "static"
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: apt-get install nodejs)")
@pytest.mark.parametrize("test", sorted(HERE.glob("*.test.mjs")), ids=lambda path: path.name)
def test_functions(test: Path, tmp_path: Path) -> None:
    """Node takes the page's files for modules where a package.json says so; the page needs none."""
    assert NODE is not None
    shutil.copytree(STATIC, tmp_path / "static")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    copied = shutil.copy(test, tmp_path)
    command = [NODE, "--test", "--test-reporter=tap", copied]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "# fail 0" in ran.stdout
    assert "# tests 0" not in ran.stdout
