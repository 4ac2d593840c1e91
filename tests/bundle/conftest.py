from pathlib import Path

import pytest
import torch
from tiny_checkpoints import Original, Tensors, Write, make, write

from sdserver.jobs.model import Family


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made() -> dict[object, Original]:
    """Modules made so far, by what was asked for. Tests that change one copy it first."""
    return {}


@pytest.fixture
def checkpoint(tmp_path: Path, made: dict[object, Original]) -> Write:
    def build(
        family: Family,
        extra: Tensors | None = None,
        *,
        name: str = "tiny",
        in_channels: int = 4,
        head_channels: int | None = None,
    ) -> tuple[Path, Original]:
        key = (family, in_channels, head_channels)
        if key not in made:
            made[key] = make(family, in_channels=in_channels, head_channels=head_channels)
        return write(tmp_path / f"{name}.safetensors", family, made[key], extra), made[key]

    return build
