"""The front process: takes the node through its life.

The maintenance port answers first. The checkpoint is fetched while the engine process starts, and
the API's port is bound once a picture can be made, so that a TCP check on it tells the truth.
"""

import asyncio
import contextlib
import gc
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.routing import Route

from sdserver.app.administration import Administrator
from sdserver.app.devices import one_per_device
from sdserver.app.draining import Draining
from sdserver.app.observation import Observation
from sdserver.app.servers import Serving, allow_files, bind, check_free, guards
from sdserver.app.tls import Tls, tls_of
from sdserver.catalog.read_ahead import read_ahead
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine, LoadFailed
from sdserver.errors import CheckpointError, DownloadError
from sdserver.ops.admin import Keyhole, admin_routes
from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.ops.history import History, Memory, memory_used
from sdserver.ops.logs import LogRing, Redactor
from sdserver.ops.metrics import Metrics
from sdserver.ops.overview import Overview
from sdserver.ops.progress import ProgressPrinter
from sdserver.ops.server import maintenance_app
from sdserver.ops.state import Node
from sdserver.settings.model import Settings
from sdserver.settings.version import VERSION

if TYPE_CHECKING:
    from sdserver.api.closing import Closing
    from sdserver.api.door import Door
    from sdserver.app.assembly import Assembly
    from sdserver.ops.uploads.uploader import Uploader

T = TypeVar("T")
EXIT_OK, EXIT_FAILED = 0, 3
EXIT_RESTART = -1
"""Not an exit code: the program is to begin anew in the same process."""
_SECRET = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|KEY")
FAILED_SECONDS = 10.0  # how long a failed node stays to be asked why before it exits
Say = Callable[[str], None]


class Stopped(Exception):
    """A signal asked the node to end."""


class Front:
    """One node: its state, its engine and its two ports.

    Args:
        settings: resolved start-up settings.
        environ: where tokens for downloads are found.
        say: prints a line for people and launchers.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], say: Say) -> None:
        self._settings = settings
        self._environ = environ
        self._logs = LogRing(Redactor(secrets_of(settings, environ)))
        self._print = say
        self._stop = asyncio.Event()
        self._at_once = self._is_restart = False
        self._failure: CheckpointError | None = None
        self._node = Node(VERSION)
        self._metrics = Metrics()
        self._observation = Observation(self._node, self._metrics)
        self._client = EngineClient(
            one_per_device(engine_config(settings), settings.devices),
            settings.max_queue,
            self._observe,
            self._engine_died,
            on_give_up=self._engine_given_up,
        )
        self._node.watch_devices(lambda: self._client.devices)
        self._administrator = Administrator(settings, self._client, self._stop.set, self._stop.is_set)
        self._history = History(self._client, self._memory_used)
        self._overview = Overview(self._node, self._client, self._history, self._memory_used)
        self._tls: Tls | None = None
        self._api: Serving | None = None
        self._closing: Closing | None = None
        self._door: Door | None = None
        self._draining: Draining | None = None
        self._uploads: Uploader | None = None

    async def run(self) -> int:
        """Live until a signal or a failure; the process's exit code.

        Raises:
            SettingsError: a port cannot be had, or the TLS files are of no use.
        """
        settings = self._settings
        self._take_certificate()
        if told := allow_files(settings.max_connections):
            self._say(told)
        check_free(settings.host, settings.port, "--port")
        if settings.upload_url:
            from sdserver.app.uploads import check_uploads  # noqa: PLC0415 - imports an HTTP client

            check_uploads(settings, self._environ)
        maintenance = Serving(
            maintenance_app(self._node, self._metrics, self._client, operators=self._operators()),
            bind(settings.maintenance_host, settings.maintenance_port, "--maintenance-port"),
            grace=1,
            guard=guards(settings, self._metrics.refused)[1],
        )
        # Whoever hears the port answer may send a signal at once.
        self._listen_to_signals()
        await maintenance.start()
        self._say(f"Maintenance port: {maintenance.address}")
        recording = asyncio.create_task(self._history.record())
        logging.getLogger().addHandler(self._logs)
        try:
            return await self._live()
        finally:
            logging.getLogger().removeHandler(self._logs)
            recording.cancel()
            await self._end_uploads(0)
            await self._client.stop()
            await maintenance.stop()

    async def _live(self) -> int:
        try:
            with contextlib.suppress(Stopped):
                await self._become_ready()
                await self._stop.wait()
            if self._failure is not None:
                raise self._failure
            await self._end()
            if self._failure is not None:
                raise self._failure
        except (DownloadError, CheckpointError) as error:
            self._node.enter("failed", str(error))
            self._say(f"Stable diffusion model failed to load: {error}")
            if self._door is not None and self._api is not None:
                self._door.shut()
                self._api.stop_listening()
            await self._client.stop()
            self._stop.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), FAILED_SECONDS)
            return EXIT_FAILED
        return EXIT_RESTART if self._is_restart else EXIT_OK

    async def _end(self) -> None:
        """Take no more, finish what was accepted, close the API's port, upload what waits."""
        reason = "The end was asked for."
        self._node.enter("draining", reason)
        self._say("Finishing what was accepted; a second signal ends at once.")
        began = time.monotonic()
        if self._api is not None and self._draining is not None and self._closing is not None:
            await self._draining.refuse(reason, at_once=self._at_once)
            self._api.stop_listening()
            began = time.monotonic()
            await self._draining.finish(self._settings.shutdown_timeout)
            self._closing.begin()
            await self._api.stop(self._settings.shutdown_timeout - (time.monotonic() - began))
        await self._end_uploads(self._settings.shutdown_timeout - (time.monotonic() - began))

    async def _become_ready(self) -> None:
        """Fetch and load the checkpoint, then open the API's port."""
        # FastAPI takes long to import, and port 8001 answers first.
        from sdserver.api.closing import Closing  # noqa: PLC0415
        from sdserver.api.config import Ending  # noqa: PLC0415
        from sdserver.api.door import Door  # noqa: PLC0415
        from sdserver.app.assembly import Assembly  # noqa: PLC0415

        self._client.start()
        assembly = await self._unless_stopped(asyncio.to_thread(Assembly, self._settings, self._environ))
        assembly.follow_options(self._client)
        assembly.show_status(self._overview.fields)
        self._metrics.know_hashes(assembly.sha256_of)
        self._begin_uploads(assembly.uploads)
        checkpoint = await self._fetch(assembly)
        read_ahead(checkpoint)
        self._node.enter("loading", "")
        hashing = asyncio.create_task(asyncio.to_thread(assembly.use, checkpoint))
        loaded = await self._unless_stopped(self._client.load(str(checkpoint.absolute())))
        await self._unless_stopped(hashing)
        settings = self._settings
        ending = Ending(self._stop.set, lambda: os._exit(EXIT_OK), self._restart)
        self._closing, self._door = Closing(), Door()
        self._draining = Draining(self._node, self._door, settings.drain_delay)
        self._administrator.serves(self._draining, self._door)
        self._api = Serving(
            assembly.api(self._client, self._observation.request_done, ending, self._closing, self._door),
            bind(settings.host, settings.port, "--port"),
            keep_alive=settings.timeout_keep_alive,
            grace=math.ceil(settings.shutdown_timeout),
            tls=self._tls.context if self._tls else None,
            has_lifespan=True,
            guard=guards(settings, self._metrics.refused)[0],
        )
        await self._api.start()
        # What was made so far stays: a pass of the collector over it takes tens of milliseconds.
        gc.freeze()
        self._node.enter("ready", "")
        self._say(
            f"Model loaded in {loaded.seconds:.1f}s ({checkpoint.name}, {loaded.device}, {loaded.dtype})."
        )
        self._say(f"Ready: {self._api.address}")

    async def _fetch(self, assembly: "Assembly") -> Path:
        if not self._settings.model_url:
            return assembly.choose()
        self._node.enter("downloading", "")
        cancelled = threading.Event()
        show = ProgressPrinter(sys.stdout)

        def progressed(progress: DownloadProgress) -> None:
            self._node.progressed(progress)
            show(progress)

        download = asyncio.create_task(asyncio.to_thread(assembly.fetch, progressed, cancelled))
        try:
            return await self._unless_stopped(download)
        finally:
            cancelled.set()

    async def _unless_stopped(self, work: "asyncio.Future[T] | Coroutine[Any, Any, T]") -> T:
        """The work's result.

        Raises:
            Stopped: a signal came first.
        """
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            raise Stopped
        return task.result()

    def _observe(self, message: FromEngine) -> None:
        self._observation.engine_said(message, self._client)
        self._history.observe(message)
        is_of_no_use = self._node.phase == "restarting" and self._client.model is None
        if isinstance(message, LoadFailed) and is_of_no_use:
            # What was loaded before the engine died cannot be loaded any more: the node is of no use.
            self._failure = CheckpointError(message.message)
            self._stop.set()

    def _begin_uploads(self, uploads: "Uploader | None") -> None:
        """Send what is saved to the store, beginning with what an earlier process left."""
        if uploads is not None:
            self._uploads = uploads
            self._node.watch_uploads(uploads.facts)
            uploads.start()

    async def _end_uploads(self, seconds: float) -> None:
        """Let what waits be uploaded, at most so long; the next start takes up the rest."""
        if self._uploads is None:
            return
        waiting = self._uploads.facts().files
        if waiting and seconds > 0:
            self._say(f"Uploading what waits, {waiting} pictures; a second signal ends at once.")
        if not await self._uploads.drained(seconds):
            self._say(f"{self._uploads.facts().files} pictures are uploaded after the next start.")
        await self._uploads.stop()
        self._uploads = None

    def _memory_used(self) -> Memory | None:
        return memory_used(self._client.memory, *self._client.pids)

    def _engine_died(self, exit_code: int | None) -> None:
        self._say(self._observation.engine_died(exit_code, is_serving=self._client.is_serving))

    def _engine_given_up(self, reason: str) -> None:
        self._failure = CheckpointError(reason)
        self._stop.set()

    def _restart(self) -> None:
        self._is_restart = True
        self._stop.set()

    def _say(self, line: str) -> None:
        self._logs.add(line)
        self._print(line)

    def _operators(self) -> list[Route]:
        """What the maintenance port lets operators do, if there is a key for it."""
        key = self._settings.admin_key
        return admin_routes(self._administrator, Keyhole(key.digest), self._logs) if key else []

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        if self._tls is not None:
            loop.add_signal_handler(signal.SIGHUP, self._renew_certificate, self._tls)

    def _take_certificate(self) -> None:
        """Read the TLS files, if there are any."""
        tls = self._tls = tls_of(self._settings)
        if tls is not None:
            self._node.watch_certificate(lambda: tls.ends_at)
            for notice in tls.notices():
                self._say(notice)

    def _renew_certificate(self, tls: Tls) -> None:
        told = tls.renew()
        if told is not None:
            self._say(told)

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set() and self._failure is None:
            os._exit(1)
        self._at_once = number == signal.SIGINT
        self._stop.set()


def secrets_of(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """What must not be in the log that operators are shown."""
    named = [value for name, value in environ.items() if _SECRET.search(name)]
    users = [user.password for user in (*settings.api_auth, *settings.gradio_auth)]
    return [*named, *users, *settings.model_url]


def engine_config(settings: Settings) -> EngineConfig:
    """What the settings say to an engine process."""
    return EngineConfig(
        device=settings.device,
        precision=settings.precision,
        attention=settings.attention,
        threads=settings.threads,
        max_batch_rows=settings.max_batch_rows,
        max_running=settings.max_running,
        deterministic=settings.deterministic,
        allow_pickle=settings.allow_pickle,
        cached_checkpoints=1,
        log_level=settings.log_level,
        approx_dir=str(settings.models_dir / "VAE-approx"),
        offload=settings.offload,
        compiled_dir=str(settings.data_dir.absolute() / ".cache" / "compiled") if settings.compile else "",
        cuda_graphs=settings.cuda_graphs,
        hang_limit=settings.hang_limit,
        checks_numbers=not settings.disable_nan_check,
    )
