"""The maintenance port: the node's state for people, probes, balancers and Prometheus.

All routes only read, need no key, answer GET and HEAD, and touch neither the device nor a lock of
the engine, so they answer at once whatever the engine does.

`/live` says "restart me": 503 once the node has failed for good or its engine was silent for too
long. `/ready` says "send me requests". A node that is busy is ready: balancers that send to all
nodes when none is healthy (AWS ALB) would flood exactly the busy ones. Those who want that ask for
`/ready?max_queue=N`.
"""

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import PurePath

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdserver.ops.devices import device_fields
from sdserver.ops.metrics import Load, Metrics
from sdserver.ops.page import PAGE_POLICY, page
from sdserver.ops.state import Node, NodeFacts

# What a client is told to wait while the node gets ready, in seconds.
SHORTEST_WAIT, LONGEST_WAIT = 1, 60
# Longer than the longest call that the engine announces: one that hangs is ended and started again before.
BEAT_LIMIT = 4000.0
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
NO_CONTENT_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

Fields = dict[str, object]


def maintenance_app(
    node: Node,
    metrics: Metrics,
    load: Load,
    beat_limit: float = BEAT_LIMIT,
    operators: Sequence[Route] = (),
) -> Starlette:
    """The maintenance port as an ASGI application.

    Args:
        node: what the node does.
        metrics: what `/metrics` tells.
        load: how busy the engine is.
        beat_limit: seconds of the engine's silence, while it should speak, until `/live` says 503.
        operators: routes of `ops.admin`, for those who have the key.
    """
    answers = _Answers(node, metrics, load, beat_limit)
    routes: dict[Callable[[Request], Response], tuple[str, ...]] = {
        answers.summary: ("/",),
        answers.live: ("/live", "/livez", "/v2/health/live"),
        answers.ready: ("/ready", "/readyz", "/v2/health/ready"),
        answers.startup: ("/startup",),
        answers.health: ("/health", "/healthcheck", "/ping"),
        answers.status: ("/status",),
        answers.metrics: ("/metrics",),
        answers.load: ("/load",),
    }
    app = Starlette(
        routes=[
            *(
                Route(path, _on_the_loop(answer), methods=["GET"])
                for answer, paths in routes.items()
                for path in paths
            ),
            *operators,
        ],
        exception_handlers={HTTPException: _refuse, Exception: _broken},
    )
    app.router.redirect_slashes = False  # the redirect would name whatever host the client claimed
    app.add_middleware(_Headers)
    return app


class _Answers:
    """One method per route."""

    def __init__(self, node: Node, metrics: Metrics, load: Load, beat_limit: float) -> None:
        self._node = node
        self._metrics = metrics
        self._load = load
        self._beat_limit = beat_limit
        self._python = platform.python_version()

    def summary(self, request: Request) -> Response:
        facts = self._node.facts()
        if _wants_page(request):
            headers = {"content-security-policy": PAGE_POLICY, "vary": "accept"}
            return HTMLResponse(page(facts, self._load), headers=headers)
        fields: Fields = {
            "state": facts.phase,
            "reason": facts.reason,
            "model": None if facts.model is None else PurePath(facts.model.checkpoint).name,
            "uptime_s": facts.uptime,
            "queue": self._queue(),
            "download": _download(facts),
            "version": facts.version,
        }
        return _json(fields, headers={"vary": "accept"})

    def live(self, _: Request) -> Response:
        facts = self._node.facts()
        if facts.phase == "failed":
            return _json({"live": False, "state": "failed", "reason": facts.reason}, 503)
        # Elsewhere the engine has reason to be silent: it loads, or it is not there.
        if facts.phase in {"ready", "draining"} and (facts.beat_age or 0) > self._beat_limit:
            return _json({"live": False, "state": "hung", "beat_age_s": facts.beat_age}, 503)
        return _json({"live": True, "state": facts.phase})

    def ready(self, request: Request) -> Response:
        self._node.probed()
        facts = self._node.facts()
        queue = self._queue()
        if facts.phase != "ready":
            fields: Fields = {"ready": False, "state": facts.phase, "reason": facts.reason, "queue": queue}
            return _json(fields, 503, _retry_after(_wait(facts)))
        limit = _queue_limit(request)
        if limit is not None and self._load.waiting > limit:
            fields = {"ready": False, "state": "busy", "reason": "the queue is long", "queue": queue}
            return _json(fields, 503, _retry_after(self._load.eta_seconds))
        return _json({"ready": True, "state": "ready", "queue": queue})

    def health(self, _: Request) -> Response:
        self._node.probed()
        facts = self._node.facts()
        if facts.phase == "ready":
            return _json({"status": "ok"})
        return _json({"status": facts.phase}, 503, _retry_after(_wait(facts)))

    def startup(self, _: Request) -> Response:
        facts = self._node.facts()
        if facts.phase == "failed":
            return _json({"started": False, "phase": "failed", "reason": facts.reason}, 500)
        if facts.started:
            return _json({"started": True, "phase": facts.phase})
        download = facts.download
        fields: Fields = {
            "started": False,
            "phase": facts.phase,
            "bytes_done": 0 if download is None else download.done,
            "bytes_total": None if download is None else download.total,
            "eta_s": None if download is None else download.eta,
        }
        return _json(fields, 503, _retry_after(_wait(facts)))

    def status(self, _: Request) -> Response:
        facts = self._node.facts()
        model = facts.model
        fields: Fields = {
            "version": facts.version,
            "python": self._python,
            "state": facts.phase,
            "reason": facts.reason,
            "state_age_s": facts.phase_age,
            "uptime_s": facts.uptime,
            "started": facts.started,
            "model": None
            if model is None
            else {
                "file": PurePath(model.checkpoint).name,
                "family": model.family,
                "device": model.device,
                "dtype": model.dtype,
                "threads": model.threads,
                "load_s": model.seconds,
            },
            "memory": None if facts.memory is None else asdict(facts.memory),
            "queue": self._queue(),
            "download": _download(facts),
            "uploads": _uploads(facts),
            "tls": _tls(facts),
            "devices": [device_fields(device) for device in facts.devices],
            "degraded": facts.phase == "ready" and any(one.state != "ready" for one in facts.devices),
            "engine": {"restarts": facts.restarts, "beat_age_s": facts.beat_age},
            "history": [{"state": c.phase, "reason": c.reason, "age_s": c.age} for c in facts.history],
            "errors": [{"error": e.error, "id": e.id, "age_s": e.age} for e in facts.errors],
        }
        return _json(fields)

    def metrics(self, _: Request) -> Response:
        return Response(
            self._metrics.text(self._node.facts(), self._load), headers={"content-type": METRICS_TYPE}
        )

    def load(self, _: Request) -> Response:
        return _json(self._queue(), headers={"x-queue-depth": str(self._load.waiting)})

    def _queue(self) -> Fields:
        load = self._load
        return {
            "running": load.running,
            "pending": load.waiting,
            "capacity": load.capacity,
            "eta_s": load.eta_seconds,
        }


class _Headers:
    """Puts the headers that every answer has; those an answer set itself stay."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                missing = [pair for pair in (*HEADERS, NO_CONTENT_POLICY) if pair[0] not in present]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        await self._app(scope, receive, with_headers)


def _on_the_loop(answer: Callable[[Request], Response]) -> Callable[[Request], object]:
    """Starlette sends plain functions to a thread pool; these are faster than the trip there."""

    async def endpoint(request: Request) -> Response:
        return answer(request)

    return endpoint


async def _refuse(_: Request, error: Exception) -> Response:
    """404, 405 and 400 as JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "Internal Server Error"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return _json({"error": detail}, status, headers)


async def _broken(_: Request, error: Exception) -> Response:
    """A bug in this file must not show its traceback to whoever asks."""
    # Starlette makes this answer outside of all middleware.
    headers = {name.decode(): value.decode() for name, value in (*HEADERS, NO_CONTENT_POLICY)}
    return _json({"error": type(error).__name__}, 500, headers)


def _json(fields: Fields, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(_tame(fields), status, headers)


def _tame(value: object) -> object:
    """Floats rounded to milliseconds, and those that JSON does not know as null."""
    match value:
        case float():
            return round(value, 3) if math.isfinite(value) else None
        case dict():
            return {key: _tame(item) for key, item in value.items()}
        case list():
            return [_tame(item) for item in value]
        case _:
            return value


def _download(facts: NodeFacts) -> Fields | None:
    progress = facts.download
    if progress is None:
        return None
    return {
        "file": progress.file,
        "bytes_done": progress.done,
        "bytes_total": progress.total,
        "bytes_per_s": progress.speed,
        "eta_s": progress.eta,
    }


def _uploads(facts: NodeFacts) -> Fields | None:
    uploads = facts.uploads
    if uploads is None:
        return None
    return {
        "to": uploads.target,
        "files": uploads.files,
        "bytes": uploads.bytes,
        "oldest_s": uploads.oldest_seconds,
        "results": dict(uploads.results),
        "error": uploads.error,
        "error_age_s": uploads.error_age if uploads.error else None,
        "next_try_s": uploads.pause,
    }


def _tls(facts: NodeFacts) -> Fields | None:
    ends = facts.certificate_ends
    if ends is None:
        return None
    day = datetime.fromtimestamp(ends, UTC)
    return {"certificate_ends": f"{day:%Y-%m-%dT%H:%M:%SZ}", "certificate_left_s": ends - time.time()}


def _wait(facts: NodeFacts) -> float:
    """Seconds until asking again makes sense."""
    if facts.phase == "downloading" and facts.download is not None and facts.download.eta is not None:
        return facts.download.eta
    return LONGEST_WAIT if facts.phase in {"draining", "failed"} else 5


def _retry_after(seconds: float) -> dict[str, str]:
    whole = math.ceil(seconds) if math.isfinite(seconds) else LONGEST_WAIT
    return {"retry-after": str(min(LONGEST_WAIT, max(SHORTEST_WAIT, whole)))}


def _queue_limit(request: Request) -> int | None:
    text = request.query_params.get("max_queue")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise HTTPException(400, "max_queue must be a whole number of at least 0.")
    return int(text)


def _wants_page(request: Request) -> bool:
    """Browsers name text/html; curl and probes say */* or nothing and get JSON."""
    wanted = request.query_params.get("format")
    if wanted in {"json", "html"}:
        return wanted == "html"
    shares = dict(_share(part) for part in request.headers.get("accept", "").split(","))
    html = shares.get("text/html", 0.0)
    return html > 0 and html >= shares.get("application/json", 0.0)


def _share(part: str) -> tuple[str, float]:
    """One entry of an Accept header as its type and its q (1 where there is none or it is no number)."""
    kind, *parameters = (item.strip().lower() for item in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return kind, float(parameter[2:])
            except ValueError:
                return kind, 1.0
    return kind, 1.0
