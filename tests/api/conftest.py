"""A fake engine that makes deterministic pictures, a catalog of two, and real servers on loopback ports."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from patience import PATIENCE

from sdserver.api.closing import Closing
from sdserver.api.config import ApiConfig
from sdserver.api.option_sections import NOTHING_FROZEN, Freeze
from sdserver.api.options import Options
from sdserver.api.server import create_app
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.networks import NetworkFolders, Networks
from sdserver.engine.messages import Loaded, MemoryFacts, StopMode
from sdserver.engine.ticket import Ticket
from sdserver.errors import QueueFull, UnknownCheckpoint, UnreadableCheckpoint
from sdserver.jobs.events import Cancelled, Failed, Finished, JobEvent, Picture, Progress, Started, Used
from sdserver.jobs.job import Describe, Enlarge, Job, Label, Restore, Txt2Img, WithoutCheckpoint
from sdserver.prompt.styles import Style
from sdserver.web.site import documentation_routes, login_routes, page_routes

GOLDENS = Path(__file__).parents[1] / "goldens/api"
SHA = "f901d886debf08649263ba4a6b88b9134e77b5988947da74cd2c2bfa3e2b1940"
OTHER_SHA = "fb2af093b0" + "0" * 54
STYLES = (
    Style("Tiny Style", "masterpiece, {prompt}, tiny style", "blurry, lowres"),
    Style("Append Style", "watercolor", ""),
)


def picture_of(job: Job) -> Picture:
    """What the fake engine makes: the latent's size, the seed in every value; black where it enlarges,
    white where it restores faces.
    """
    if isinstance(job, Enlarge):
        return Picture(job.size.width, job.size.height, bytes(job.size.width * job.size.height * 3))
    if isinstance(job, Restore):
        return Picture(job.picture.width, job.picture.height, b"\xff" * len(job.picture.pixels))
    if isinstance(job, Describe | Label):
        return Picture(0, 0, b"")
    size = job.hires.size if isinstance(job, Txt2Img) and job.hires else job.size
    width, height = size.width // 8 * 8, size.height // 8 * 8
    return Picture(width, height, bytes([job.noise.seed % 251]) * (width * height * 3))


def before_faces(job: Job) -> Picture | None:
    """What the fake engine tells a picture was before it restored faces, where that is wanted: black."""
    if isinstance(job, WithoutCheckpoint) or not (job.faces and job.faces.keeps_picture):
        return None
    picture = picture_of(job)
    return Picture(picture.width, picture.height, bytes(len(picture.pixels)))


def text_of(job: Job) -> str:
    """What the fake engine makes of a picture: its size and colour, and what else it was asked."""
    if not isinstance(job, Describe | Label):
        return ""
    colour = tuple(job.picture.pixels[:3])
    if isinstance(job, Label):
        return f"labels of {colour} by {Path(job.network).name}"
    asked = (job.beams, job.min_length, job.max_length)
    return f"{job.picture.width}x{job.picture.height} of {colour} by {Path(job.network).name} {asked}"


def used_by(job: Job) -> Used:
    """What an engine would find while it works on the job."""
    if isinstance(job, WithoutCheckpoint):
        return Used()
    prompts = (job.prompt.positive.lower(), job.prompt.negative.lower())
    refiners = [job.refiner, job.hires.refiner if isinstance(job, Txt2Img) and job.hires else None]
    return Used(
        embeddings=tuple(each.name for text in prompts for each in job.model.embeddings if each.name in text),
        inpainting="inpainting" in job.model.checkpoint,
        refined=any(refiner is not None and refiner.switch_at < 1 for refiner in refiners),
        padded=job.guidance.padding != "none" and len(prompts[0]) > 300,
    )


class FakeEngine:
    """Finishes jobs at once, unless `held`. Its methods are called on the server's loop."""

    def __init__(self) -> None:
        self.model: Loaded | None = Loaded("/models/tiny-sd15.safetensors", "sd1", "cpu", "float32", 0.1)
        self.memory: MemoryFacts | None = MemoryFacts(None, None, None, None)
        self.held = False
        self.full = False
        self.eta_seconds = 0.0
        self.failure: str | None = None
        self.jobs: list[Job] = []
        self.loads: list[str] = []
        self.moves: list[str] = []
        self.orders: list[tuple[str, ...]] = []
        self.stops: list[tuple[tuple[str, ...], StopMode]] = []
        self.submitted = threading.Event()
        self.stopped = threading.Event()
        self._tickets: list[Ticket] = []

    def submit(
        self,
        request_id: str,
        jobs: Sequence[Job],
        *,
        on_event: Callable[[JobEvent], None] | None = None,
        continues: bool = False,
    ) -> Ticket:
        if self.full and not continues:
            raise QueueFull("64 requests wait already; try again in 7 s.", 7)
        ticket = Ticket(request_id, jobs, self._stop, on_event=on_event)
        self.jobs += jobs
        self._tickets.append(ticket)
        ticket.observe(Started(jobs[0].id))
        if self.held:
            steps = 1 if isinstance(jobs[0], WithoutCheckpoint) else jobs[0].sampling.steps
            ticket.observe(Progress(jobs[0].id, steps // 2, steps))
        else:
            asyncio.get_running_loop().call_soon(self._finish, ticket)
        self.submitted.set()
        return ticket

    def arrange(self, request_ids: Sequence[str]) -> None:
        self.orders.append(tuple(request_ids))

    def active(self) -> Sequence[Ticket]:
        return [ticket for ticket in self._tickets if ticket.state != "done"]

    async def load(self, checkpoint: str) -> Loaded:
        self.loads.append(checkpoint)
        if "broken" in checkpoint:
            raise UnreadableCheckpoint("The checkpoint is damaged: download it again.")
        self.model = Loaded(checkpoint, "sd1", "cpu", "float32", 0.1)
        return self.model

    async def unload(self) -> None:
        self.moves.append("unload")

    async def reload(self) -> Loaded:
        self.moves.append("reload")
        assert self.model is not None
        return self.model

    def _finish(self, ticket: Ticket) -> None:
        for job in ticket.jobs:
            if self.failure:
                ticket.observe(Failed(job.id, self.failure, "The device's memory does not suffice."))
            else:
                made = Finished(job.id, picture_of(job), used=used_by(job), text=text_of(job))
                ticket.observe(replace(made, before_faces=before_faces(job)))

    def _stop(self, job_ids: Sequence[str], mode: StopMode) -> None:
        self.stops.append((tuple(job_ids), mode))
        jobs = {job.id: job for job in self.jobs}
        ticket = next(t for t in self._tickets if any(job.id == job_ids[0] for job in t.jobs))
        for place, job_id in enumerate(job_ids):
            if mode == "drop" or place > 0 or isinstance(jobs[job_id], Describe):
                ticket.observe(Cancelled(job_id))
            else:
                ticket.observe(Finished(job_id, picture_of(jobs[job_id]), interrupted=True))
        self.stopped.set()


class FakeCatalog:
    """Three checkpoints and a broken one; the second is hashed when it is first used."""

    def __init__(self) -> None:
        names = {"tiny-sd15": SHA, "tiny-sd15-b": None, "broken": SHA[::-1]}
        names["tiny-sd15-inpainting"] = "b608562db2" + "0" * 54
        self.checkpoints = {
            name: Checkpoint(f"/models/{name}.safetensors", f"{name}.safetensors", "0" * 8, sha, None)
            for name, sha in names.items()
        }
        self.refreshed = 0

    def find(self, name: str) -> Checkpoint:
        for checkpoint in self.checkpoints.values():
            if name in checkpoint.aliases:
                return checkpoint
        raise UnknownCheckpoint(f"There is no checkpoint {name[:100]!r}.")

    def find_close(self, name: str) -> Checkpoint:
        for checkpoint in self.checkpoints.values():
            if name in checkpoint.aliases or name.partition(" [")[0] == checkpoint.stem:
                return checkpoint
        raise UnknownCheckpoint(f"There is no checkpoint {name[:100]!r}.")

    def all(self) -> tuple[Checkpoint, ...]:
        return tuple(self.checkpoints.values())

    def refresh(self) -> None:
        self.refreshed += 1

    def hashed(self, checkpoint: Checkpoint) -> Checkpoint:
        known = replace(checkpoint, sha256=OTHER_SHA)
        self.checkpoints[checkpoint.stem] = known
        return known


class Server:
    """A running server, and what is behind it."""

    def __init__(
        self,
        data_dir: Path,
        folders: NetworkFolders | None = None,
        freeze: Freeze = NOTHING_FROZEN,
        engine: FakeEngine | None = None,
        **config: Any,
    ) -> None:
        self.engine, self.catalog = engine or FakeEngine(), FakeCatalog()
        self.data_dir = data_dir
        self.options = Options(data_dir / "config.json", freeze)
        if self.options.snapshot()["sd_model_checkpoint"] is None:
            self.options.apply({"sd_model_checkpoint": "tiny-sd15.safetensors [f901d886de]"})
        self.seen: list[tuple[str, int]] = []
        self._closing = Closing()
        facts = ApiConfig(
            data_dir=data_dir, version="v1.10.1", styles=STYLES, encoders=1, closing=self._closing
        )
        app = create_app(
            replace(facts, **config),
            self.engine,
            self.catalog,
            Networks(folders or NetworkFolders(), data_dir / "network-hashes.json", allow_pickle=True),
            self.options,
            lambda route, code, _: self.seen.append((route, code)),
            [*page_routes(), *documentation_routes(), *login_routes()],
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._connections: list[socket.socket] = []
        self._thread.start()

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """One request on a connection of its own."""
        headers = {"Connection": "close"} | arguments.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=PATIENCE, **arguments)

    def post(self, path: str, body: object, **arguments: Any) -> requests.Response:
        return self.request("POST", f"/sdapi/v1/{path}", json=body, **arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return self.request("GET", f"/sdapi/v1/{path}", **arguments)

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which these bytes were sent; closed with the server at the latest."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        self._connections.append(connection)
        connection.sendall(data)
        return connection

    def reported(self, count: int) -> list[tuple[str, int]]:
        """The first requests that were reported; that happens a moment after their answers."""
        end = time.monotonic() + PATIENCE
        while len(self.seen) < count and time.monotonic() < end:
            time.sleep(0.005)
        return self.seen

    def closing(self) -> None:
        """The application is told that the server is about to end."""
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        self._server.servers[0].get_loop().call_soon_threadsafe(self._closing.begin)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self.closing()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests of a module that leave no trace on it."""
    running = Server(tmp_path_factory.mktemp("data"))
    yield running
    running.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own; arguments replace those of the config."""
    running: list[Server] = []

    def start(**config: Any) -> Server:
        running.append(Server(tmp_path, **config))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture(scope="session")
def goldens() -> Callable[[str], Any]:
    """Reads AUTOMATIC1111's recorded answers."""
    return lambda name: json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))
