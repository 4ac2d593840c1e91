"""The front process: takes the node through its life.

The maintenance port answers first. The checkpoint is fetched while the engine process starts, and
the API's port is bound once a picture can be made, so that a TCP check on it tells the truth.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdserver.app.observation import Observation
from sdserver.app.servers import DRAIN_SECONDS, Serving, bind, check_free
from sdserver.engine.client import EngineClient
from sdserver.engine.config import EngineConfig
from sdserver.engine.messages import FromEngine, LoadFailed
from sdserver.errors import CheckpointError, DownloadError
from sdserver.ops.downloads.progress import DownloadProgress
from sdserver.ops.metrics import Metrics
from sdserver.ops.progress import ProgressPrinter
from sdserver.ops.server import maintenance_app
from sdserver.ops.state import Node
from sdserver.settings.model import Settings
from sdserver.settings.version import VERSION

if TYPE_CHECKING:
    from sdserver.api.closing import Closing
    from sdserver.app.assembly import Assembly

T = TypeVar("T")
EXIT_OK, EXIT_FAILED = 0, 3
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
        self._say = say
        self._stop = asyncio.Event()
        self._failure: CheckpointError | None = None
        self._node = Node(VERSION)
        self._metrics = Metrics()
        self._observation = Observation(self._node, self._metrics)
        self._client = EngineClient(
            engine_config(settings), settings.max_queue, self._observe, self._engine_died
        )
        self._api: Serving | None = None
        self._closing: Closing | None = None

    async def run(self) -> int:
        """Live until a signal or a failure; the process's exit code.

        Raises:
            SettingsError: a port cannot be had.
        """
        settings = self._settings
        check_free(settings.host, settings.port, "--port")
        maintenance = Serving(
            maintenance_app(self._node, self._metrics, self._client),
            bind(settings.maintenance_host, settings.maintenance_port, "--maintenance-port"),
            grace=1,
        )
        await maintenance.start()
        self._say(f"Maintenance port: {maintenance.address}")
        self._listen_to_signals()
        try:
            return await self._live()
        finally:
            await self._client.stop()
            await maintenance.stop()

    async def _live(self) -> int:
        try:
            await self._become_ready()
            await self._stop.wait()
            if self._failure is not None:
                raise self._failure
        except Stopped:
            pass
        except (DownloadError, CheckpointError) as error:
            self._node.enter("failed", str(error))
            self._say(f"Stable diffusion model failed to load: {error}")
            await self._client.stop()
            self._stop.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), FAILED_SECONDS)
            return EXIT_FAILED
        self._node.enter("draining", "The end was asked for.")
        self._say("Finishing what was accepted; a second signal ends at once.")
        if self._api is not None:
            if self._closing is not None:
                self._closing.begin()
            await self._api.stop()
        return EXIT_OK

    async def _become_ready(self) -> None:
        """Fetch and load the checkpoint, then open the API's port."""
        # FastAPI takes long to import, and port 8001 answers first.
        from sdserver.api.closing import Closing  # noqa: PLC0415
        from sdserver.api.config import Ending  # noqa: PLC0415
        from sdserver.app.assembly import Assembly  # noqa: PLC0415

        self._client.start()
        assembly = await self._unless_stopped(asyncio.to_thread(Assembly, self._settings, self._environ))
        checkpoint = await self._fetch(assembly)
        self._node.enter("loading", "")
        hashing = asyncio.create_task(asyncio.to_thread(assembly.use, checkpoint))
        loaded = await self._unless_stopped(self._client.load(str(checkpoint.absolute())))
        await self._unless_stopped(hashing)
        settings = self._settings
        tls = (settings.tls_certfile, settings.tls_keyfile)
        ending = Ending(self._stop.set, lambda: os._exit(EXIT_OK))
        self._closing = Closing()
        self._api = Serving(
            assembly.api(self._client, self._observation.request_done, ending, self._closing),
            bind(settings.host, settings.port, "--port"),
            keep_alive=settings.timeout_keep_alive,
            grace=DRAIN_SECONDS,
            tls=(tls[0], tls[1]) if tls[0] and tls[1] else None,
            has_lifespan=True,
        )
        await self._api.start()
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
        if isinstance(message, LoadFailed) and self._node.phase == "restarting":
            # What was loaded before the engine died cannot be loaded any more: the node is of no use.
            self._failure = CheckpointError(message.message)
            self._stop.set()

    def _engine_died(self, exit_code: int | None) -> None:
        reason = f"The engine process ended with code {exit_code}; it is started again."
        self._say(reason)
        self._observation.engine_died(reason)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            os._exit(1)
        self._stop.set()


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
    )
