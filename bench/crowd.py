"""How a running server bears a crowd: more requests than it takes, and clients that are slow on purpose.

    python -m bench.crowd 8000 --requests 500
    python -m bench.crowd 8000 --maintenance-port 8001 --slow 200 --seconds 30 --saturate 16

The first sends all requests within a second and tells how they were answered, and how long refusals took:
by the client's clock, and by the server's (`X-Process-Time`). The second opens slow connections (headers,
bodies, and whole requests that are repeated, in turn), keeps so many requests under way, and asks for
`/health` on both ports meanwhile. On this machine only. Prints JSON.
"""

import argparse
import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

HOST: Final = "127.0.0.1"
FIELDS: Final = {"prompt": "a crowd", "steps": 20, "width": 64, "height": 64, "seed": 1}
SLOW: Final = (
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-A: b\r\n"),
    (b"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n", b" "),
    (b"GET /sdapi/v1/options HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
)


async def asked(port: int, data: bytes) -> tuple[int, float, float]:
    """The answer's status, the seconds until it was there, and those that the server counted."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(data)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        await reader.readexactly(int(headers.get("content-length", "0")))
        seconds = time.perf_counter() - began
        return int(head[0].split()[1]), seconds, float(headers.get("x-process-time", "nan"))
    finally:
        writer.transport.abort()


def generating(steps: int) -> bytes:
    """A request for a picture."""
    body = json.dumps(FIELDS | {"steps": steps}).encode()
    head = f"POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and greatest, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    picks = {
        "median_ms": len(ordered) // 2,
        "p99_ms": int(0.99 * (len(ordered) - 1)),
        "max_ms": len(ordered) - 1,
    }
    return {name: round(1000 * ordered[place], 1) for name, place in picks.items()}


async def crowd(port: int, count: int, steps: int) -> dict[str, Any]:
    """So many requests within a second."""
    data = generating(steps)

    async def later(place: int) -> tuple[int, float, float]:
        await asyncio.sleep(place / count)
        try:
            return await asked(port, data)
        except (OSError, asyncio.IncompleteReadError):
            return 0, float("nan"), float("nan")

    found = await asyncio.gather(*(later(place) for place in range(count)))
    refused = [each for each in found if each[0] == 503]
    return {
        "requests": count,
        "answers": dict(sorted(Counter(each[0] for each in found).items())),
        "refused": spread([each[1] for each in refused]),
        "refused_by_the_server's_clock": spread([each[2] for each in refused]),
    }


async def slow_client(port: int, kind: int) -> None:
    """A connection that never gets anywhere, again and again."""
    first, part = SLOW[kind % len(SLOW)]
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.write(first)
            while not writer.is_closing():
                await asyncio.sleep(1)
                writer.write(part)
                await writer.drain()
        await asyncio.sleep(0.1)


async def busy(port: int, steps: int) -> None:
    """Requests without a pause."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await asked(port, generating(steps))
        await asyncio.sleep(0.05)


async def besieged(args: argparse.Namespace) -> dict[str, Any]:
    """`/health` on both ports while the server is kept busy and waiting."""
    ports = [args.port, *([args.maintenance_port] if args.maintenance_port else [])]
    others = [asyncio.create_task(slow_client(ports[k % len(ports)], k)) for k in range(args.slow)]
    others += [asyncio.create_task(busy(args.port, args.steps)) for _ in range(args.saturate)]
    await asyncio.sleep(2)
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    times: dict[int, list[float]] = {port: [] for port in ports}
    statuses: Counter[int] = Counter()
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        for port in ports:
            try:
                status, seconds, _ = await asked(port, ask)
            except (OSError, asyncio.IncompleteReadError):
                status, seconds = 0, float("inf")
            statuses[status] += 1
            times[port].append(seconds)
        await asyncio.sleep(0.05)
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return {
        "slow": args.slow,
        "under_way": args.saturate,
        "answers": dict(statuses),
        "health": {str(port): spread(found) for port, found in times.items()},
    }


def main() -> None:
    """Read the arguments, print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("--maintenance-port", type=int, default=0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--saturate", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    if args.requests:
        print(json.dumps(asyncio.run(crowd(args.port, args.requests, args.steps)), indent=1))
    else:
        print(json.dumps(asyncio.run(besieged(args)), indent=1))


if __name__ == "__main__":
    main()
