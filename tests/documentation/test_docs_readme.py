"""The examples of README and docs/api.md run as they stand, against a server with the demo checkpoint."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from node import Node, running
from patience import PATIENCE
from PIL import Image, ImageChops, ImageStat

from tests.documentation.conftest import ROOT

DEMO = ROOT / "models" / "Stable-diffusion" / "demo.safetensors"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "http://localhost:8000"
SMALL = "64"
"""Sides of pictures where their size proves nothing, instead of 512."""

pytestmark = pytest.mark.slow


def blocks(document: str, language: str) -> list[str]:
    """A document's examples that ask the API something."""
    found = BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    return [code for name, code in found if name == language and ADDRESS in code]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp("node"), "--checkpoint", str(DEMO)) as started:
        started.wait_ready()
        yield started


def run(command: Sequence[str], program: str, node: Node, folder: Path) -> str:
    """What a program prints that is run in a folder."""
    done = subprocess.run(
        [*command, program.replace(ADDRESS, f"http://127.0.0.1:{node.port}")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(program: str, node: Node, folder: Path) -> str:
    return run([sys.executable, "-c"], program, node, folder)


def shell(program: str, node: Node, folder: Path) -> str:
    return run(["bash", "-euo", "pipefail", "-c"], program, node, folder)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def test_the_readmes_python_makes_its_pictures(node: Node, tmp_path: Path) -> None:
    found = blocks("README.md", "python")
    program = "\n".join(found)
    assert program.count(ADDRESS) == len(found)
    saved = re.findall(r'\.save\("([\w.-]+)"\)', program)
    assert len(saved) == len(found)
    python(program, node, tmp_path)
    first, second, third = (opened(tmp_path / name) for name in saved)
    assert first.size == second.size == (512, 512)
    assert third.size == (128, 128)
    changes = ImageStat.Stat(ImageChops.difference(first, second)).mean
    assert sum(changes) / 3 > 1


@pytest.mark.parametrize("document", ["README.md", "docs/api.md"])
def test_jobs_are_followed_by_curl(document: str, node: Node, tmp_path: Path) -> None:
    (program,) = (code for code in blocks(document, "sh") if "/v1/jobs" in code)
    told = shell(program.replace("512", SMALL), node, tmp_path)
    assert "event: end" in told
    assert '"state":"completed"' in told
    (name,) = re.findall(r"-o ([\w.-]+)", program)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == "PNG"


def test_the_other_examples_of_the_api(node: Node, tmp_path: Path) -> None:
    (curl,) = (code for code in blocks("docs/api.md", "sh") if "/v1/jobs" not in code and ":8001" not in code)
    assert '"images":["' in shell(curl.replace("512", SMALL), node, tmp_path)
    requests, openai = blocks("docs/api.md", "python")
    assert "all_seeds" in requests
    requests = requests.replace('"batch_size"', f'"width": {SMALL}, "height": {SMALL}, "batch_size"')
    assert python(requests, node, tmp_path).startswith("[")
    python(openai.replace("512", SMALL), node, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"picture-0.png", "picture-1.png", "drawn-0.png", "drawn-1.png"}
