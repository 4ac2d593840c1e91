"""What the choice of a node is worth: nginx taking turns, and deploy/'s files as they are, before two nodes.

    PYTHONPATH=tests/support python -m bench.balancing
    PYTHONPATH=tests/support python -m bench.balancing --balancer nginx haproxy envoy --rounds 6

The nodes are stand-ins that work on one request at a time and take as long as it says: so the figures are
about the choice alone, on any machine. Three of four requests are short, the fourth takes eight times as
long; they come as in a Poisson process. All balancers are asked the same requests at the same moments,
round by round in turn. A request waited for the time until its answer less the work itself. Prints JSON.
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bench.machine import facts
from sdserver.app.servers import Serving, bind
from tests.deploy.balancers import LOOPBACK, Address, Balancer, balancer

TURNS: Final = "turns"
SHORT, LONG, SHARE_OF_LONG = 1.0, 8.0, 0.25
MEAN: Final = SHORT * (1 - SHARE_OF_LONG) + LONG * SHARE_OF_LONG
NODES: Final = 2


class StandIn:
    """A node that works on one request at a time."""

    def __init__(self) -> None:
        self._work = asyncio.Lock()

    async def picture(self, request: Request) -> Response:
        """As long as the request says."""
        seconds = float((await request.json())["seconds"])
        async with self._work:
            await asyncio.sleep(seconds)
        return JSONResponse({"images": []})

    async def ready(self, _: Request) -> Response:
        """For the balancers' checks."""
        return PlainTextResponse("ok\n")


@asynccontextmanager
async def stand_ins() -> AsyncIterator[list[Address]]:
    """Nodes on ports of their own."""
    servings, addresses = [], []
    for _ in range(NODES):
        node = StandIn()
        routes = [
            Route("/sdapi/v1/txt2img", node.picture, methods=["POST"]),
            *(Route(path, node.ready) for path in ("/health", "/ready")),
        ]
        sockets = [bind(LOOPBACK, 0, "port") for _ in range(2)]
        addresses.append(Address(*(one.getsockname()[1] for one in sockets)))
        for one in sockets:
            servings.append(Serving(Starlette(routes=routes), one))
            await servings[-1].start()
    try:
        yield addresses
    finally:
        for serving in servings:
            await serving.stop(0)


def requests_of(rounds: int, count: int, load: float, unit: float) -> list[list[tuple[float, float]]]:
    """Each round's requests: when they come, and how long they take."""
    chance = random.Random("balancing")
    rate = load * NODES / (MEAN * unit)
    found = []
    for _ in range(rounds):
        moments = itertools.accumulate(chance.expovariate(rate) for _ in range(count))
        found.append([(at, unit * (LONG if chance.random() < SHARE_OF_LONG else SHORT)) for at in moments])
    return found


async def waits(port: int, asked: Sequence[tuple[float, float]]) -> list[float]:
    """What each request waited, in seconds."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    url = f"http://{LOOPBACK}:{port}/sdapi/v1/txt2img"
    async with httpx2.AsyncClient(timeout=600, limits=limits, trust_env=False) as http:
        began = time.perf_counter()

        async def one(at: float, seconds: float) -> float:
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            response = await http.post(url, json={"seconds": seconds})
            response.raise_for_status()
            return time.perf_counter() - began - at - seconds

        return await asyncio.gather(*(one(at, seconds) for at, seconds in asked))


def p95(values: Sequence[float]) -> float:
    """The value that one of twenty exceeds."""
    return statistics.quantiles(values, n=20)[-1]


async def measured(args: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """p95 of what requests waited, for each balancer round by round."""
    found: dict[str, list[float]] = {name: [] for name in (TURNS, *args.balancer)}
    async with stand_ins() as nodes:
        with ExitStack() as stack:
            ports = {}
            for name in found:
                opened = _opened(name, folder / name, nodes)
                ports[name] = (await asyncio.to_thread(stack.enter_context, opened)).port
            for number, asked in enumerate(requests_of(args.rounds, args.requests, args.load, args.unit)):
                for name in sorted(found, reverse=bool(number % 2)):
                    found[name].append(p95(await waits(ports[name], asked)))
                    print(f"round {number} {name}: {found[name][-1]:.2f} s", file=sys.stderr, flush=True)
            await asyncio.to_thread(stack.close)
    return found


def _opened(name: str, folder: Path, nodes: list[Address]) -> AbstractContextManager[Balancer]:
    if name != TURNS:
        return balancer(name, folder, nodes)
    return balancer("nginx", folder, nodes, change={"    least_conn; ": "    # least_conn; "})


def main() -> int:
    """Print the figures, and their ratios to taking turns."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measured(args, Path(folder)))
    ratios = {
        name: statistics.median(mine / turns for mine, turns in zip(values, found[TURNS], strict=True))
        for name, values in found.items()
    }
    wanted = {"p95_waited_seconds": found, "ratio_to_turns": ratios, "unit_seconds": args.unit}
    print(json.dumps(wanted | {"machine": facts()}, indent=1))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--balancer", nargs="+", choices=["nginx", "haproxy", "envoy"], default=["nginx"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=150, help="a round")
    parser.add_argument("--load", type=float, default=0.7, help="of what the nodes can do")
    parser.add_argument("--unit", type=float, default=0.05, help="seconds of a short request")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
