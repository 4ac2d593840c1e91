"""Prometheus metrics of the node, in a registry of their own.

Labels hold only words of the code: never a prompt, a user, a path or anything a client wrote.
"""

import math
import time
from collections.abc import Callable
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector

from sdserver.engine.messages import BatchRan, Beat, FromEngine, Loaded, MemoryFacts, Mended
from sdserver.errors import NansException, OutOfMemory
from sdserver.jobs.events import Cancelled, Failed, Finished, Picture, Progress, Started
from sdserver.ops.devices import DeviceCollector
from sdserver.ops.state import NodeFacts
from sdserver.ops.uploads.facts import UploadFacts

RejectReason = Literal["queue_full", "draining", "not_ready", "deadline", "invalid", "too_large", "auth"]
CancelReason = Literal["client_gone", "interrupted", "deadline", "shutdown"]
RestartReason = Literal["crash", "hung", "device", "requested"]

STAGES = {"text": "text", "predict": "denoise", "decode": "vae", "encode": "encode"}
REQUEST_BUCKETS = (0.5, 1, 2, 3, 5, 8, 12, 20, 30, 60, 120, 300, 600)
BATCH_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
MAX_ROUTES = 100
REFUSED = "refused"
"""The route of what was refused before it reached one."""


class Load(Protocol):
    """How busy the engine is; `engine.client.EngineClient` is one."""

    @property
    def running(self) -> int:
        """Requests that the engine works on."""

    @property
    def waiting(self) -> int:
        """Requests that wait for the engine."""

    @property
    def capacity(self) -> int:
        """How many may run at once."""

    @property
    def eta_seconds(self) -> float:
        """About when all accepted work is done."""


class Metrics:
    """Counts what the node does. Call from the event loop only.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._registry = CollectorRegistry()
        self._routes: set[str] = set()
        self._steps_done: dict[str, int] = {}
        self._last_batch: float | None = None
        self._received = 0
        self._make_request_metrics()
        self._make_engine_metrics()
        self._make_upload_metrics()
        self._certificate_ends: Gauge | None = None
        self._uploaded: dict[str, int] = {}
        self._hash_of: Callable[[str], str] = lambda _checkpoint: ""
        self._loaded: Loaded | None = None
        self._devices = DeviceCollector()
        self._registry.register(self._devices)
        ProcessCollector(registry=self._registry)

    def know_hashes(self, hash_of: Callable[[str], str]) -> None:
        """Tell the checkpoint's SHA-256 from now on, too.

        Args:
            hash_of: a checkpoint's path to its SHA-256, empty while it is not known. Must not block.
        """
        self._hash_of = hash_of

    def _make_upload_metrics(self) -> None:
        registry = self._registry
        self._uploads = Counter(
            "sdserver_upload",
            "Tries to upload a saved picture, and pictures that will not be uploaded.",
            ["result"],
            registry=registry,
        )
        self._spool_files = Gauge("sdserver_upload_spool_files", "Pictures to upload.", registry=registry)
        self._spool_bytes = Gauge("sdserver_upload_spool_bytes", "Bytes of them.", registry=registry)
        self._spool_age = Gauge(
            "sdserver_upload_spool_oldest_seconds",
            "How long the oldest of them has waited; 0 if none does.",
            registry=registry,
        )

    def _make_request_metrics(self) -> None:
        registry = self._registry
        self._requests = Counter(
            "sdserver_requests", "Requests answered.", ["route", "code"], registry=registry
        )
        self._duration = Histogram(
            "sdserver_request_duration_seconds",
            "From a request's arrival to its answer.",
            ["route"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._queued = Histogram(
            "sdserver_queue_duration_seconds",
            "From a request's acceptance to the start of its work.",
            buckets=(0.01, 0.1, *REQUEST_BUCKETS),
            registry=registry,
        )
        self._rejected = Counter(
            "sdserver_rejected", "Requests refused before any work.", ["reason"], registry=registry
        )
        self._cancelled = Counter(
            "sdserver_cancelled", "Requests ended before their picture.", ["reason"], registry=registry
        )
        self._waiting = Gauge(
            "sdserver_requests_waiting", "Requests that wait for the engine.", registry=registry
        )
        self._running = Gauge(
            "sdserver_requests_running", "Requests that the engine works on.", registry=registry
        )
        self._ready = Gauge("sdserver_ready", "1 while the node takes requests.", registry=registry)
        self._download = Counter(
            "sdserver_download_bytes", "Bytes of checkpoints fetched from the network.", registry=registry
        )

    def _make_engine_metrics(self) -> None:
        registry = self._registry
        self._inference = Histogram(
            "sdserver_inference_duration_seconds",
            "Device time of one batch.",
            ["stage"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._rows = Histogram(
            "sdserver_batch_rows", "Rows in one batch.", ["kind"], buckets=ROW_BUCKETS, registry=registry
        )
        self._steps = Counter("sdserver_steps", "Evaluations of the denoiser, per image.", registry=registry)
        self._images = Counter("sdserver_images", "Pictures made.", registry=registry)
        self._megapixel_steps = Counter(
            "sdserver_megapixel_steps",
            "Evaluations times megapixels of the pictures made.",
            registry=registry,
        )
        self._oom = Counter(
            "sdserver_oom", "Times the device's memory did not suffice.", ["recovered"], registry=registry
        )
        self._nan = Counter(
            "sdserver_nan",
            "Times a network's result was not a number.",
            ["where", "recovered"],
            registry=registry,
        )
        self._restarts = Counter(
            "sdserver_worker_restarts", "Engine processes replaced.", ["reason"], registry=registry
        )
        self._step_age = Gauge(
            "sdserver_last_step_age_seconds",
            "Since the last batch was run; NaN before the first.",
            registry=registry,
        )
        self._memory = Gauge("sdserver_gpu_memory_bytes", "Device memory.", ["kind"], registry=registry)
        self._load_seconds = Gauge(
            "sdserver_model_load_seconds", "The last checkpoint's loading.", ["phase"], registry=registry
        )
        self._model = Gauge(
            "sdserver_model_info",
            "The loaded checkpoint.",
            ["sha256", "arch", "dtype", "device"],
            registry=registry,
        )

    def observe(self, message: FromEngine) -> None:
        """Take in what the engine says."""
        match message:
            case BatchRan(kind, rows, seconds):
                self._last_batch = self._clock()
                stage = STAGES.get(kind, "other")
                self._inference.labels(stage).observe(seconds)
                self._rows.labels(kind if kind in STAGES else "other").observe(rows)
            case Beat(memory=memory):
                self._note_memory(memory)
            case Loaded():
                self._note_model(message)
            case Started(job):
                self._steps_done[job] = 0
            case Progress(job, step, _):
                # A restarted job counts its steps again; a skipped report is made up by the next.
                self._steps.inc(max(0, step - self._steps_done.get(job, 0)))
                self._steps_done[job] = step
            case Finished(job, picture):
                self._note_picture(picture, self._steps_done.pop(job, 0))
            case Failed(job, error, text):
                self._steps_done.pop(job, None)
                self._note_failure(error, text)
            case Mended("oom"):
                self._oom.labels("yes").inc()
            case Mended("nan"):
                self._nan.labels("vae", "yes").inc()
            case Cancelled(job):
                self._steps_done.pop(job, None)
            case _:
                pass

    def request_done(self, route: str, code: int, seconds: float) -> None:
        """A request was answered.

        Args:
            route: the route's template as the code has it, never the path asked for. Past the first
                hundred, routes count as "other", so that a mistake here cannot fill the memory.
            code: the HTTP status.
            seconds: from its arrival to the end of the answer.
        """
        if route not in self._routes and len(self._routes) >= MAX_ROUTES:
            route = "other"
        self._routes.add(route)
        self._requests.labels(route, str(code)).inc()
        self._duration.labels(route).observe(seconds)

    def refused(self, code: int) -> None:
        """A request, or what was to become one, was refused before it reached a route."""
        self._requests.labels(REFUSED, str(code)).inc()

    def waited(self, seconds: float) -> None:
        """An accepted request was begun, after waiting that long."""
        self._queued.observe(seconds)

    def rejected(self, reason: RejectReason) -> None:
        """A request was refused before any work."""
        self._rejected.labels(reason).inc()

    def cancelled(self, reason: CancelReason) -> None:
        """A request ended before its picture was done."""
        self._cancelled.labels(reason).inc()

    def engine_restarted(self, reason: RestartReason) -> None:
        """The engine process was replaced."""
        self._restarts.labels(reason).inc()
        self._memory.clear()
        self._model.clear()
        self._loaded = None

    def text(self, node: NodeFacts, load: Load) -> bytes:
        """Everything in Prometheus' text format 0.0.4, with the live values of node and load."""
        self._ready.set(node.phase == "ready")
        self._devices.show(node.devices)
        self._waiting.set(load.waiting)
        self._running.set(load.running)
        last = self._last_batch
        self._step_age.set(math.nan if last is None else self._clock() - last)
        if node.download is not None:
            # A new download counts from 0 again.
            gained = node.download.received - self._received
            self._download.inc(gained if gained >= 0 else node.download.received)
            self._received = node.download.received
        if self._loaded is not None:
            self._tell_model(self._loaded)
        if node.uploads is not None:
            self._note_uploads(node.uploads)
        if node.certificate_ends is not None:
            self._note_certificate(node.certificate_ends)
        return generate_latest(self._registry)

    def _note_certificate(self, ends: float) -> None:
        if self._certificate_ends is None:
            self._certificate_ends = Gauge(
                "sdserver_tls_certificate_expiry_timestamp_seconds",
                "When the certificate of TLS ends, since 1970.",
                registry=self._registry,
            )
        self._certificate_ends.set(ends)

    def _note_memory(self, memory: MemoryFacts) -> None:
        kinds = {
            "free": memory.free,
            "total": memory.total,
            "allocated": memory.allocated,
            "reserved": memory.reserved,
        }
        for kind, count in kinds.items():
            if count is not None:
                self._memory.labels(kind).set(count)

    def _note_model(self, model: Loaded) -> None:
        self._loaded = model
        self._load_seconds.labels("total").set(model.seconds)

    def _tell_model(self, model: Loaded) -> None:
        self._model.clear()
        digest = self._hash_of(model.checkpoint)
        self._model.labels(digest, model.family, model.dtype, model.device).set(1)

    def _note_failure(self, error: str, text: str) -> None:
        if error == OutOfMemory.__name__:
            self._oom.labels("no").inc()
        elif error == NansException.__name__:
            self._nan.labels("unet" if "unet" in text.lower() else "vae", "no").inc()

    def _note_uploads(self, uploads: UploadFacts) -> None:
        self._spool_files.set(uploads.files)
        self._spool_bytes.set(uploads.bytes)
        self._spool_age.set(uploads.oldest_seconds)
        for result, count in uploads.results.items():
            self._uploads.labels(result).inc(count - self._uploaded.get(result, 0))
        self._uploaded = dict(uploads.results)

    def _note_picture(self, picture: Picture, steps: int) -> None:
        self._images.inc()
        self._megapixel_steps.inc(picture.width * picture.height * steps / 1e6)
