"""A folder without settings of its own, and `load` bound to it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sdserver.settings.load import load
from sdserver.settings.model import Settings

Load = Callable[..., Settings]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder like the one of start.sh."""
    folder = tmp_path / "app"
    (folder / "models" / "Stable-diffusion").mkdir(parents=True)
    return folder


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> Load:
    """`settings("--port", "1", env={...})`, run in a folder that is not the program's."""

    def run(*argv: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
        return load(argv, env or {}, cwd=cwd or tmp_path, root=root)

    return run
