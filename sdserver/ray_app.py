"""The server as an application of Ray Serve, for clusters that run Ray already. A replica is a node.

    serve run sdserver.ray_app:build            on a machine of the cluster
    serve deploy deploy/ray/serve.yaml          with GPUs, limits and scaling

Ray chooses the replica that has fewer requests, keeps a bounded queue before them, starts and ends them. A
replica is a process that starts a node (`python -m sdserver`) on ports of its own and passes on what Ray
sends it, so a node under Ray is the node that it is elsewhere.
"""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx2
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from sdserver.errors import SettingsError

if TYPE_CHECKING:
    from ray.serve import Application

LOOPBACK: Final = "127.0.0.1"
START_SECONDS: Final = 3600.0
"""For downloading and loading the checkpoint."""
STOP_SECONDS: Final = 110.0
"""For what was accepted to be finished."""
HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
_ROOT: Final = Path(__file__).resolve().parents[1]

Headers = list[tuple[bytes, bytes]]


class Replica:
    """A node, and the way to it.

    Args:
        flags: of the node, but its ports.
        python: that has the node's packages.
    """

    def __init__(self, flags: Sequence[str] = (), python: str = sys.executable) -> None:
        port, self._maintenance_port = _free_ports()
        ports = ("--port", str(port), "--maintenance-port", str(self._maintenance_port))
        here = ("--host", LOOPBACK, "--maintenance-host", LOOPBACK)
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            [python, "-m", "sdserver", *flags, *here, *ports],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=5)
        timeout = httpx2.Timeout(None, connect=5)
        self._client = httpx2.AsyncClient(
            base_url=f"http://{LOOPBACK}:{port}", timeout=timeout, limits=limits, trust_env=False
        )
        self._wait_ready()

    async def __call__(self, request: Request) -> Response:
        """Pass a request on, and the answer back as it comes."""
        body = await request.body()
        asked = self._client.build_request(
            request.method, _target(request), headers=_headers(request), content=body
        )
        try:
            answer = await self._client.send(asked, stream=True)
        except httpx2.TransportError:
            # Ray replaces this replica once it has noticed; another one can serve the request.
            return PlainTextResponse(
                "The node of this replica is gone; try again.\n", 503, {"Retry-After": "5"}
            )
        response = StreamingResponse(_pieces(answer), answer.status_code)
        response.raw_headers = _end_to_end(answer.headers.raw)
        return response

    async def check_health(self) -> None:
        """Ask the node whether it lives; Ray replaces a replica for which this fails.

        Raises:
            RuntimeError: it does not.
        """
        status = await asyncio.to_thread(self._asked, "/live")
        if status != 200:
            raise RuntimeError(f"The node does not live: {status or self._process.poll()}.")

    def __del__(self) -> None:
        """Have the node finish what it has, and end."""
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._asked("/ready") != 200:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"The node ended with code {self._process.returncode}; its output says why."
                )
            if time.monotonic() > deadline:
                raise RuntimeError(f"The node was not ready after {START_SECONDS:.0f} s.")
            time.sleep(0.2)

    def _asked(self, path: str) -> int:
        """The maintenance port's status, 0 where it does not answer."""
        try:
            url = f"http://{LOOPBACK}:{self._maintenance_port}{path}"
            return httpx2.get(url, timeout=5, trust_env=False).status_code
        except httpx2.TransportError:
            return 0


def build(arguments: Mapping[str, Any]) -> "Application":
    """The application, as Ray's `import_path` wants it.

    Args:
        arguments: `flags`, of each node: a list, or one text; `python`, that has the nodes' packages, if it
            is not the one that Ray runs in.

    Raises:
        SettingsError: Ray is not installed, or the arguments make no sense.
    """
    try:
        from ray import serve  # noqa: PLC0415 - an extra
    except ImportError:
        raise SettingsError("Ray is not installed here: pip install 'ray[serve]'.") from None
    unknown = set(arguments) - {"flags", "python"}
    if unknown:
        raise SettingsError(f"The application takes flags and python, not {', '.join(sorted(unknown))}.")
    flags = arguments.get("flags", [])
    if isinstance(flags, str):
        flags = shlex.split(flags)
    deployment = serve.deployment(name="sdserver")(Replica)
    application: Application = deployment.bind(
        [str(flag) for flag in flags], arguments.get("python", sys.executable)
    )
    return application


def _target(request: Request) -> str:
    """Path and query as the client wrote them."""
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    query: bytes = request.scope.get("query_string", b"")
    return b"?".join(filter(None, (raw.partition(b"?")[0], query))).decode("latin-1")


def _headers(request: Request) -> Headers:
    """The client's, and whose they are."""
    others = [pair for pair in _end_to_end(request.headers.raw) if pair[0] != b"x-forwarded-for"]
    senders = [
        *request.headers.getlist("x-forwarded-for"),
        *([request.client.host] if request.client else []),
    ]
    return [*others, *([(b"x-forwarded-for", ", ".join(senders).encode("latin-1"))] if senders else [])]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """What is for the other end, not for the connection."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in HOP_BY_HOP]


async def _pieces(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """The answer's body as it comes."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


def _free_ports() -> tuple[int, int]:
    """Two ports that nobody has. Should another process be faster than the node, Ray starts anew."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind((LOOPBACK, 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
