"""A real engine process: previews, unloading and enlarging come through the pipe."""

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from sdserver.bundle.tuner import Tuning
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.process import tuning
from sdserver.jobs.events import Finished, Picture, Previewed
from sdserver.jobs.job import Enlarge, Noise, Prompt, Sampling, Size, Txt2Img
from sdserver.jobs.keeping import Keeping
from sdserver.jobs.model import Model

CHECKPOINT = str(Path("tests/goldens/checkpoints/tiny-sd15.safetensors").absolute())
CONFIG = EngineConfig("cpu", "fp32", "sdpa", 1, 4, 4, False, False, 1, "warning")


def job(name: str, steps: int) -> Txt2Img:
    return Txt2Img(
        name,
        Model(CHECKPOINT),
        Prompt("a", "", 1, "Original", 20),
        Size(64, 64),
        Noise(1, 1, 0.0, None, 0, "CPU"),
        Sampling("Euler", "Automatic", steps, 7.0, 1.0, 0.0, 0.0, math.inf, 1.0, 0.0, 0.0, 0.0, False),
    )


async def pictures(client: EngineClient, request: str, steps: int, *, watched: bool) -> list[Picture]:
    """The previews that a request's listener was told, and last its picture."""
    seen: list[Picture] = []

    def listen(event: object) -> None:
        if isinstance(event, Previewed):
            seen.append(event.picture)

    ticket = client.submit(request, [job(f"{request}/0", steps)], on_event=listen)
    if watched:
        ticket.watch(1, "cheap")
    (end,) = await ticket.results()
    assert isinstance(end, Finished)
    assert len(seen) == ticket.preview_step
    return [*seen, end.picture]


async def scenario() -> None:
    client = EngineClient(CONFIG, 8, lambda _: None, lambda code: pytest.fail(f"the engine ended: {code}"))
    client.start()
    try:
        client.keep(Keeping(1, 3))
        loaded = await client.load(CHECKPOINT)
        *looks, watched = await pictures(client, "a", 60, watched=True)
        assert looks
        assert {(look.width, look.height) for look in looks} == {(8, 8)}
        await client.unload()
        ticket = client.submit("e", [Enlarge("e/0", watched, Size(40, 30), "Lanczos", "")])
        (enlarged,) = await ticket.results()
        assert isinstance(enlarged, Finished)
        assert (enlarged.picture.width, enlarged.picture.height) == (40, 30)
        assert client.is_unloaded, "enlarging needs no checkpoint"
        assert await pictures(client, "b", 60, watched=False) == [watched]
        assert not client.is_unloaded, "the job brought it back"
        await client.unload()
        assert (await client.reload()).checkpoint == loaded.checkpoint
    finally:
        await client.stop()


@pytest.mark.slow
def test_an_engine_process_shows_frees_and_enlarges() -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Tuning()),
        ({"threads": 0, "attention": "auto"}, Tuning(threads=True, attention=True)),
        ({"compiled_dir": "/c", "cuda_graphs": True}, Tuning(graphs=True, compiled=Path("/c"))),
        ({"threads": 0, "attention": "auto", "deterministic": True}, Tuning()),
    ],
)
def test_what_an_engine_does_for_speed(changes: dict[str, Any], expected: Tuning) -> None:
    assert tuning(replace(CONFIG, **changes)) == expected


@pytest.mark.parametrize("flag", [{"compiled_dir": "/c"}, {"cuda_graphs": True}])
def test_nothing_begins_in_mid_life_in_deterministic_mode(
    flag: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert tuning(replace(CONFIG, deterministic=True, **flag)) == Tuning()
    assert "without --compile and --cuda-graphs" in caplog.text
