"""Clients and engines that do as they please, around the real API: each accepted request ends once.

`SDSERVER_SOAK_LIVES=500 scripts/test tests/soak` tries more.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sdserver.api.config import ApiConfig
from sdserver.api.options import Options
from sdserver.api.server import create_app
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.engine import client as client_module
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine
from sdserver.engine.restarts import Restarts
from sdserver.jobs.job import Job
from tests.api.conftest import FakeCatalog
from tests.engine.test_pool_stateful import CONFIG, Engine

ENDED = {"completed", "failed", "cancelled"}
MOST_CRASHES = 6
"""Of an example: nothing may be finished in between, and after ten the node gives up."""
SMALL = {"width": 64, "height": 64, "steps": 2, "prompt": "x", "seed": 1}
MOST_EXAMPLES = int(os.environ.get("SDSERVER_SOAK_LIVES", "15"))
TITLE = "tiny-sd15.safetensors [f901d886de]"


class Ask:
    """A request on its way; its client may leave."""

    def __init__(self, app: Any, method: str, path: str, body: object, key: str = "") -> None:
        self.left = asyncio.Event()
        self.status = 0
        self.body = b""
        self.answers = 0
        headers = [(b"host", b"x"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [*headers, *([(b"idempotency-key", key.encode())] if key else [])],
            "client": ("10.0.0.1", 1), "server": ("x", 80), "scheme": "http", "http_version": "1.1",
            "root_path": "", "asgi": {"version": "3.0"},
        }  # fmt: skip
        self._content: list[bytes] = [b"" if body is None else json.dumps(body).encode()]
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._content:
            return {"type": "http.request", "body": self._content.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.answers += 1
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


class Lives(RuleBasedStateMachine):
    @initialize(engines=st.integers(1, 2))
    def begin(self, engines: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.engines: list[Engine] = []
        self.suspects: set[str] = set()
        self.asks: list[Ask] = []
        self.ends: dict[str, str] = {}
        self.crashes = 0
        self.loop.run_until_complete(self.start(engines))

    async def start(self, engines: int) -> None:
        original = client_module.Restarts
        client_module.Restarts = lambda: Restarts(spread=lambda: 0.0)  # type: ignore[assignment,misc]
        try:
            self.client = EngineClient([CONFIG] * engines, 8, lambda _: None, lambda _: None, self.supervise)
        finally:
            client_module.Restarts = original  # type: ignore[misc]
        self.client.start()
        folder = Path(self.folder.name)
        options = Options(folder / "config.json")
        options.apply({"sd_model_checkpoint": TITLE})
        networks = Networks(NetworkFolders(), folder / "hashes.json")
        config = ApiConfig(folder, "v1.10.1", encoders=1, max_unfinished=12)
        told: Callable[[str, int, float], None] = lambda _route, _code, _seconds: None  # noqa: E731
        self.app = create_app(config, self.client, FakeCatalog(), networks, options, told, [])

    def supervise(
        self, _: EngineConfig, on_message: Callable[[FromEngine], None], on_exit: Callable[[int | None], None]
    ) -> Engine:
        self.engines.append(Engine(self, on_message, on_exit))  # type: ignore[arg-type]
        return self.engines[-1]

    def sent(self, engine: Engine, job: Job) -> None:
        """No two engines have it."""
        assert not any(job.id in other.held for other in self.engines)

    def wait(self, *asked: Ask) -> None:
        """Until these are answered, or else for a moment."""

        async def moment() -> None:
            for _ in range(8):
                await asyncio.sleep(0)
            if asked:
                await asyncio.wait([ask.task for ask in asked], timeout=20)

        self.loop.run_until_complete(moment())

    def do(self, act: Callable[[], object]) -> None:
        """On the loop, and what follows from it at once."""

        async def doing() -> None:
            act()
            for _ in range(3):
                await asyncio.sleep(0)

        self.loop.run_until_complete(doing())

    def ask(self, method: str, path: str, body: object = None, key: str = "") -> Ask:
        async def begin() -> Ask:
            return Ask(self.app, method, path, body, key)

        return self.loop.run_until_complete(begin())

    def jobs(self) -> list[dict[str, Any]]:
        ask = self.ask("GET", "/v1/jobs")
        self.wait(ask)
        assert ask.status == 200
        found: list[dict[str, Any]] = json.loads(ask.body)["jobs"]
        return found

    @rule(images=st.integers(1, 3), key=st.sampled_from(["", "", "a", "b"]))
    def request(self, images: int, key: str) -> None:
        self.asks.append(self.ask("POST", "/sdapi/v1/txt2img", SMALL | {"batch_size": images}, key))
        self.wait()

    @rule(images=st.integers(1, 3))
    def job(self, images: int) -> None:
        body = {"kind": "txt2img", "request": SMALL | {"batch_size": images}}
        ask = self.ask("POST", "/v1/jobs", body)
        self.wait(ask)
        assert ask.status in (202, 503), ask.body

    @precondition(lambda self: self.asks)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.asks)).left.set()
        self.wait()

    @rule(data=st.data(), how=st.sampled_from(["DELETE", "interrupt", "skip"]))
    def stop(self, data: st.DataObject, how: str) -> None:
        if there := [job["id"] for job in self.jobs() if job["state"] not in ENDED]:
            path = f"/v1/jobs/{data.draw(st.sampled_from(there))}"
            ask = self.ask(how, path) if how == "DELETE" else self.ask("POST", f"{path}/{how}")
            self.wait(ask)
            assert ask.status in (200, 404, 409), ask.body

    @rule()
    def interrupt_current(self) -> None:
        ask = self.ask("POST", "/sdapi/v1/interrupt")
        self.wait(ask)
        assert ask.status == 200

    @rule(number=st.integers(0, 1), times=st.integers(1, 6))
    def work(self, number: int, times: int) -> None:
        engine = self.engines[number % len(self.engines)]
        for _ in range(times):
            if engine.inbox:
                engine.read()
            engine.begin()
            if engine.outbox:
                self.do(engine.speak)

    @rule(number=st.integers(0, 1))
    def finish(self, number: int) -> None:
        self.engines[number % len(self.engines)].finish()

    @precondition(lambda self: self.crashes < MOST_CRASHES)
    @rule(number=st.integers(0, 1))
    def crash(self, number: int) -> None:
        engine = self.engines[number % len(self.engines)]
        if engine.alive:
            self.crashes += 1
            self.do(engine.crash)

    @invariant()
    def truth(self) -> None:
        """What is over stays as it is; the gauges are what is there."""
        if not hasattr(self, "client"):
            return
        jobs = self.jobs()
        for job in jobs:
            if job["state"] in ENDED:
                assert self.ends.setdefault(job["id"], job["state"]) == job["state"]
            else:
                assert job["id"] not in self.ends, "it was over"
        assert self.client.running + self.client.waiting == len(self.client.active())
        assert all(ask.answers <= 1 for ask in self.asks)

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        try:
            self.end()
        finally:
            self.loop.run_until_complete(self.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()

    async def close(self) -> None:
        await self.client.stop()
        for ask in self.asks:
            ask.task.cancel()
        await asyncio.gather(*(ask.task for ask in self.asks), return_exceptions=True)

    def end(self) -> None:
        """With engines that work, everything is answered, and nothing stays behind."""
        for _ in range(400):
            for engine in self.engines:
                while engine.inbox:
                    engine.read()
                engine.begin()
                engine.finish()
                while engine.outbox:
                    self.do(engine.speak)
            self.loop.run_until_complete(asyncio.sleep(0.002))
            is_over = all(job["state"] in ENDED for job in self.jobs())
            if is_over and all(ask.task.done() for ask in self.asks) and not self.client.active():
                break
        self.wait(*self.asks)
        for ask in self.asks:
            assert ask.task.done(), "never answered"
            assert ask.task.exception() is None
            assert ask.left.is_set() or ask.status in (200, 410, 422, 500, 503), (ask.status, ask.body)
            if ask.status == 500:
                assert b"PoisonJob" in ask.body, ask.body
            if not ask.left.is_set():
                assert ask.answers == 1
        left = [job for job in self.jobs() if job["state"] not in ENDED]
        assert left == []
        assert self.client.active() == ()
        assert self.client.running == self.client.waiting == 0
        files = [path.name for path in Path(self.folder.name).rglob("*") if path.is_file()]
        assert set(files) <= {"config.json", "params.txt", "hashes.json"}, files


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=MOST_EXAMPLES,
    stateful_step_count=20,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
