"""How a running server bears slowhttptest, which opens connections that get nowhere.

    python -m bench.slow 8000 --maintenance-port 8001 --attack headers bodies readers

For each attack: slowhttptest runs, `/health` of both ports is asked ten times a second, each time over a new
connection, and one picture after the other is asked for. On this machine only; slowhttptest must be
installed (a package of Debian). Prints JSON.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections import Counter
from typing import Any, Final

from bench.crowd import HOST, asked, generating, spread

ATTACKS: Final = {
    "none": [],
    "headers": ["-H", "-i", "5", "-u", "/"],
    "bodies": ["-B", "-i", "5", "-s", "8192", "-x", "10", "-t", "POST", "-u", "/sdapi/v1/txt2img"],
    "readers": ["-X", "-w", "64", "-y", "256", "-n", "5", "-z", "32", "-u", "/sdapi/v1/options"],
}
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def command_of(attack: str, args: argparse.Namespace) -> list[str]:
    """The command line of slowhttptest; empty where there is nothing to run."""
    if not ATTACKS[attack]:
        return []
    *flags, path = ATTACKS[attack]
    counts = ["-c", str(args.connections), "-r", str(args.rate), "-l", str(args.seconds)]
    return ["slowhttptest", *counts, *flags, f"http://{HOST}:{args.port}{path}"]


async def polled(port: int, until: float, statuses: Counter[int]) -> list[float]:
    """Seconds that `/health` took, ten times a second; what is not answered counts as infinite."""
    found = []
    while (began := time.monotonic()) < until:
        try:
            status, seconds, _ = await asyncio.wait_for(asked(port, HEALTH), 30)
        except (OSError, EOFError, TimeoutError):
            status, seconds = 0, float("inf")
        statuses[status] += 1
        found.append(seconds)
        await asyncio.sleep(max(0.0, began + 0.1 - time.monotonic()))
    return found


async def pictures(port: int, until: float) -> tuple[Counter[int], list[float]]:
    """One after the other."""
    statuses: Counter[int] = Counter()
    times = []
    while time.monotonic() < until:
        try:
            status, seconds, _ = await asked(port, generating(20))
        except (OSError, EOFError):
            status, seconds = 0, float("inf")
        statuses[status] += 1
        times.append(seconds)
    return statuses, times


async def attacked(attack: str, args: argparse.Namespace) -> dict[str, Any]:
    """What the server's other clients see meanwhile."""
    command = command_of(attack, args)
    until = time.monotonic() + args.seconds
    process = None
    if command:
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdin=quiet, stdout=quiet, stderr=quiet)
    statuses: Counter[int] = Counter()
    ports = [args.port, *([args.maintenance_port] if args.maintenance_port else [])]
    making = asyncio.create_task(pictures(args.port, until))
    found = await asyncio.gather(*(polled(port, until, statuses) for port in ports))
    made, times = await making
    code = None if process is None else await process.wait()
    return {
        "command": " ".join(command),
        "exit": code,
        "health": {str(port): spread(each) for port, each in zip(ports, found, strict=True)},
        "health_answers": dict(statuses),
        "pictures": dict(made),
        "picture_ms": spread(times),
    }


def main() -> None:
    """Read the arguments, print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("--maintenance-port", type=int, default=0)
    parser.add_argument("--attack", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    if shutil.which("slowhttptest") is None:
        sys.exit("slowhttptest is not installed; apt-get install slowhttptest")
    for attack in args.attack:
        print(json.dumps({attack: asyncio.run(attacked(attack, args))}, indent=1), flush=True)


if __name__ == "__main__":
    main()
