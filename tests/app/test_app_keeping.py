"""What stays in memory: from the options and flags to the engine."""

import json
from pathlib import Path

import pytest

from sdserver.app.assembly import Assembly
from sdserver.app.front import engine_config
from sdserver.engine.client import EngineClient
from sdserver.engine.messages import Keep
from sdserver.jobs.keeping import Keeping
from sdserver.settings.load import load


class Recording:
    """In the place of an engine process."""

    pid = 1

    def __init__(self, *_: object) -> None:
        self.sent: list[object] = []

    def start(self) -> None:
        """It has begun."""

    def send(self, message: object) -> None:
        self.sent.append(message)

    async def stop(self) -> None:
        """It has ended."""


def test_the_engine_is_told_what_options_say_at_the_start_and_later(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"sd_checkpoints_limit": 3}))
    settings = load(["--data-dir", str(tmp_path)], {}, cwd=tmp_path, root=tmp_path)
    process = Recording()
    client = EngineClient(engine_config(settings), 8, lambda _: None, lambda _: None, lambda *_: process)
    assembly = Assembly(settings, {})
    assembly.follow_options(client)
    assert process.sent == [Keep(Keeping(1, 2, 2))]
    assembly._options.apply({"jpeg_quality": 70})
    assert process.sent == [Keep(Keeping(1, 2, 2))]
    assembly._options.apply({"sd_checkpoints_keep_in_cpu": False})
    assert process.sent[1:] == [Keep(Keeping(3, 0, 2))]


@pytest.mark.parametrize(
    ("flags", "offload"),
    [([], "none"), (["--medvram"], "models"), (["--medvram-sdxl"], "models-sdxl"), (["--lowvram"], "layers")],
)
def test_flags_of_little_memory_reach_the_engine(tmp_path: Path, flags: list[str], offload: str) -> None:
    settings = load(["--data-dir", str(tmp_path), *flags], {}, cwd=tmp_path, root=tmp_path)
    assert engine_config(settings).offload == offload
