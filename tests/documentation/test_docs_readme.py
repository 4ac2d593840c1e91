"""The README's Python runs, one block after the other, against a server with the demo checkpoint."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from node import running
from PIL import Image, ImageChops, ImageStat

from tests.documentation.conftest import ROOT

DEMO = ROOT / "models" / "Stable-diffusion" / "demo.safetensors"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://localhost:8000"


@pytest.mark.slow
def test_the_examples_make_their_pictures(tmp_path: Path) -> None:
    blocks = PYTHON.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    program = "\n".join(blocks)
    assert program.count(ADDRESS) == len(blocks)
    saved = re.findall(r'\.save\("([\w.-]+)"\)', program)
    assert len(saved) == len(blocks)
    with running(tmp_path, "--checkpoint", str(DEMO)) as node:
        node.wait_ready()
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program.replace(ADDRESS, f"http://127.0.0.1:{node.port}"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    first, second = (Image.open(tmp_path / name) for name in saved)
    assert first.size == second.size == (512, 512)
    changes = ImageStat.Stat(ImageChops.difference(first.convert("RGB"), second.convert("RGB"))).mean
    assert sum(changes) / 3 > 1
