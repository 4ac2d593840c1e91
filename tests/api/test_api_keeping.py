"""How many checkpoints stay in memory, by AUTOMATIC1111's options."""

from pathlib import Path

import pytest

from sdserver.api.keeping import keeping_of
from sdserver.api.options import Options
from sdserver.errors import InvalidField
from sdserver.jobs.keeping import Keeping


@pytest.mark.parametrize(
    ("changes", "keeping"),
    [
        ({}, Keeping(1, 0, 2)),
        ({"sd_checkpoints_limit": 3}, Keeping(1, 2, 2)),
        ({"sd_checkpoints_limit": 3, "sd_checkpoints_keep_in_cpu": False}, Keeping(3, 0, 2)),
        ({"sd_checkpoints_limit": 2, "sd_checkpoint_cache": 4}, Keeping(1, 5, 2)),
        ({"sd_checkpoint_cache": 1, "sd_checkpoints_keep_in_cpu": False}, Keeping(1, 1, 2)),
        ({"sd_vae_checkpoint_cache": 1}, Keeping(1, 0, 2)),
        ({"sd_vae_checkpoint_cache": 6}, Keeping(1, 0, 7)),
    ],
)
def test_what_the_options_say(tmp_path: Path, changes: dict[str, object], keeping: Keeping) -> None:
    options = Options(tmp_path / "config.json")
    told: list[Keeping] = []
    options.follow(lambda snapshot: told.append(keeping_of(snapshot)))
    options.apply(options.parse(changes, "options"))
    assert told == [Keeping(), keeping]


@pytest.mark.parametrize("name", ["sd_checkpoints_limit", "sd_checkpoint_cache", "sd_vae_checkpoint_cache"])
@pytest.mark.parametrize("value", [-1, 11])
def test_there_are_bounds(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(InvalidField, match="must be from"):
        Options(tmp_path / "config.json").parse({name: value}, "options")
