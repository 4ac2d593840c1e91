"""What is said in several files agrees: pyproject.toml, constraints.txt, LICENSE, NOTICE, .gitignore."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sdserver.settings.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WANTED = [
    *PROJECT["dependencies"],
    *(item for extra in PROJECT["optional-dependencies"].values() for item in extra),
]
LINES = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}


def test_constraints_are_plain_pins() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []
    assert len(PINS) == len(LINES)
    assert lines_in_order()


def lines_in_order() -> bool:
    return sorted(LINES, key=str.lower) == LINES


@pytest.mark.parametrize("wanted", WANTED)
def test_every_dependency_is_pinned_to_what_it_asks_for(wanted: str) -> None:
    requirement = Requirement(wanted)
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_torch() -> None:
    assert PINS[canonicalize_name("torch")] == "2.13.0"


def test_version_is_said_once() -> None:
    assert PROJECT["version"] == VERSION


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_vendored_data_is_named_in_the_notice() -> None:
    """Every data file in a folder named `data` or `vendor` of the package came from elsewhere."""
    notice = (ROOT / "NOTICE").read_text("utf-8")
    tracked = subprocess.run(
        ["git", "ls-files", "sdserver"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    vendored = [name for name in tracked.stdout.split() if "/vendor/" in name or name.endswith(".gz")]
    assert [name for name in vendored if name not in notice] == []
    assert "Copyright (c) 2021 OpenAI" in notice


def test_folders_are_laid_out_as_automatic1111s() -> None:
    names = {"Stable-diffusion", "VAE", "Lora", "embeddings", "hypernetworks", "ESRGAN", "ControlNet"}
    assert {path.parent.name for path in (ROOT / "models").glob("*/.gitkeep")} == names
    text = (ROOT / "models" / "README.md").read_text("utf-8")
    assert all(f"`{name}/`" in text for name in names)
    assert (ROOT / "outputs" / "README.md").is_file()
