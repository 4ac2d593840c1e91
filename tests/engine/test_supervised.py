"""Real engine processes that stop, hang, crash and lose their device: found out in time, nothing lost."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import toy_process
from toy import toy_job

from sdserver.engine import supervisor
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import EXIT_LOST, FromEngine, Hung
from sdserver.errors import PoisonJob
from sdserver.jobs.events import Finished

LIMIT = 8.0


@dataclass
class Seen:
    """What an engine process did, with the time."""

    hung: list[float] = field(default_factory=list)
    exits: list[int | None] = field(default_factory=list)

    def message(self, message: FromEngine) -> None:
        if isinstance(message, Hung):
            self.hung.append(message.seconds)

    def exit(self, code: int | None) -> None:
        self.exits.append(code)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineConfig:
    monkeypatch.setattr(supervisor, "entry", toy_process)
    device = ("cpu", "fp32", "sdpa", 1, 64, 8, False, False, 1, "warning")
    return EngineConfig(*device, approx_dir=str(tmp_path), hang_limit=LIMIT)  # type: ignore[arg-type]


async def pictures(client: EngineClient, name: str, texts: Sequence[str]) -> list[bytes]:
    jobs = [toy_job(f"{name}/{k}", text=text, seed=k) for k, text in enumerate(texts)]
    ends = await client.submit(name, jobs).results()
    return [end.picture.pixels for end in ends if isinstance(end, Finished)]


FAULTS = {
    "stop": -9,
    "sleep": -15,
    "crash": -11,
    "kill": -9,
    "end its thread": 5,
    "lose the device": EXIT_LOST,
}


@pytest.mark.slow
def test_every_fault_is_found_out_in_time_and_nothing_is_lost(
    config: EngineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async def live() -> None:
        seen = Seen()
        client = EngineClient(config, 16, seen.message, seen.exit)
        client.start()
        try:
            for fault, code in FAULTS.items():
                texts = ["a", f"do {fault}", "b"]
                caplog.clear()
                found = await pictures(client, fault, texts)
                assert len(found) == 3, fault
                assert seen.exits.pop() == code, fault
                assert seen.exits == [], "it happened once"
                assert f"about to {fault}" in caplog.text, "the engine's log is the front's"
                if fault in ("stop", "sleep"):
                    assert LIMIT < seen.hung.pop() <= LIMIT + 2, "a look apart"
                    stands = "in _misbehave" if fault == "sleep" else "it does not answer"
                    assert stands in caplog.text
                assert seen.hung == []
                assert await pictures(client, f"{fault} again", texts) == found, "the same pictures"
            assert "MainThread" in (said := await client.stacks()) or "Thread 0x" in said
        finally:
            await client.stop()

    asyncio.run(asyncio.wait_for(live(), 900))


@pytest.mark.slow
def test_a_job_that_always_hangs_is_given_up_alone(config: EngineConfig) -> None:
    async def live() -> None:
        seen = Seen()
        client = EngineClient(config, 16, seen.message, seen.exit)
        client.start()
        try:
            bad = client.submit("bad", [toy_job("bad/0", text="do always sleep")])
            good = asyncio.create_task(pictures(client, "good", ["a", "b"]))
            with pytest.raises(PoisonJob):
                await bad.results()
            assert len(await good) == 2
            assert len(seen.hung) == 2
        finally:
            await client.stop()

    asyncio.run(asyncio.wait_for(live(), 600))
