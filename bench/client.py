"""Drives any server with AUTOMATIC1111's API by its address, and measures what it answers.

    python -m bench.client http://127.0.0.1:8000 --law mixed --concurrency 1 4 16 64
    python -m bench.client http://127.0.0.1:8000 --law identical --rate 0.8 --capacity 7.5

Closed loop: so many clients, each with one request at a time. Open loop: requests come as in a Poisson
process at a share of the capacity, whether earlier ones are answered or not, and latency counts from when
a request was due. No seed is asked for twice; answers are decoded and checked once the clock has stopped.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import httpx2
import numpy as np

from bench.figures import Answered, Round, round_of, window
from bench.mix import Asked, Law, identical, mixed, requests
from bench.pictures import BadAnswer, picture_in

ROUTE = "/sdapi/v1/txt2img"
PATIENCE = 900.0
"""Seconds until an answer is given up."""


@dataclass(slots=True)
class Sent:
    """A request and what came of it.

    Attributes:
        status: 0 where there was no answer; then `content` says why.
    """

    asked: Asked
    began: float
    ended: float
    status: int
    content: bytes

    def checked(self) -> tuple[Answered, np.ndarray | None]:
        """Its figures, and its pixels if it is good."""
        answered = Answered(self.began, self.ended, self.asked.work)
        if not self.status:
            return replace(answered, error=self.content.decode()), None
        try:
            return answered, picture_in(self.status, self.content, self.asked)
        except BadAnswer as error:
            return replace(answered, error=str(error)), None


class Client:
    """Sends requests to one server. Seeds are counted on from round to round.

    Args:
        url: without the route.
        seed: of everything that is drawn.
    """

    def __init__(self, url: str, seed: int = 1) -> None:
        self._url = url.rstrip("/") + ROUTE
        self._streams = itertools.count(seed)
        self._chance = random.Random(f"arrivals {seed}")
        self.pictures: dict[int, np.ndarray] = {}
        """The latest round's, by seed, warm-up included."""
        self.work = 0.0
        """Of these pictures, see `Asked.work`."""

    def closed(self, law: Law, clients: int, pictures: int, warm: int | None = None) -> Round:
        """A round of a closed loop.

        The window is from the end of the warm-up to the last picture that counts. The clients go on until
        then, so that no server is measured half empty.

        Args:
            law: of the requests.
            clients: how many ask at once.
            pictures: to be counted.
            warm: answered before, at least 1; as many as clients by default.
        """
        warm = clients if warm is None else warm
        sent = asyncio.run(self._closed(self._stream(law), clients, warm + pictures))
        return window(self._checked(sent), warm, pictures)

    def open(self, law: Law, rate: float, pictures: int, warm: int = 4) -> Round:
        """A round of an open loop.

        Args:
            law: of the requests.
            rate: requests a second.
            pictures: to be counted.
            warm: the first requests, which do not count.
        """
        gaps = [self._chance.expovariate(rate) for _ in range(warm + pictures)]
        due = list(itertools.accumulate(gaps))
        sent = asyncio.run(self._open(self._stream(law), due))
        counted = self._checked(sent)[warm:]
        began = sent[warm].began
        return round_of(counted, max(answer.ended for answer in counted) - began)

    def same(self, asked: list[Asked], clients: int) -> dict[int, np.ndarray]:
        """The pictures of given requests, by seed: to compare servers or loads, not to measure.

        Raises:
            BadAnswer: one is not good.
        """
        sent = asyncio.run(self._closed(iter(asked), clients, len(asked)))
        failed = [answer.error for answer in self._checked(sent) if answer.error]
        if failed:
            raise BadAnswer(failed[0])
        return self.pictures

    def _stream(self, law: Law) -> Iterator[Asked]:
        return requests(law, next(self._streams))

    def _checked(self, sent: list[Sent]) -> list[Answered]:
        seeds = [one.asked.seed for one in sent]
        assert len(set(seeds)) == len(seeds), "a seed was asked for twice"
        self.pictures, self.work = {}, 0.0
        answers = []
        for one in sent:
            answered, pixels = one.checked()
            answers.append(answered)
            if pixels is not None:
                self.pictures[one.asked.seed] = pixels
                self.work += one.asked.work
        return answers

    async def _closed(self, stream: Iterator[Asked], clients: int, wanted: int) -> list[Sent]:
        sent: list[Sent] = []

        async def client(http: httpx2.AsyncClient) -> None:
            while len(sent) < wanted and (asked := next(stream, None)) is not None:
                sent.append(await self._send(http, asked, time.perf_counter()))

        async with _http() as http, asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client(http))
        return sent

    async def _open(self, stream: Iterator[Asked], due: list[float]) -> list[Sent]:
        start = time.perf_counter()

        async def arrive(http: httpx2.AsyncClient, asked: Asked, moment: float) -> Sent:
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            return await self._send(http, asked, moment)

        async with _http() as http, asyncio.TaskGroup() as group:
            # The stream never ends.
            tasks = [
                group.create_task(arrive(http, asked, start + after))
                for asked, after in zip(stream, due, strict=False)
            ]
        return [task.result() for task in tasks]

    async def _send(self, http: httpx2.AsyncClient, asked: Asked, began: float) -> Sent:
        try:
            response = await http.post(self._url, json=asked.body())
        except httpx2.HTTPError as error:
            reason = f"no answer: {type(error).__name__}"
            return Sent(asked, began, time.perf_counter(), 0, reason.encode())
        return Sent(asked, began, time.perf_counter(), response.status_code, response.content)


def _http() -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(timeout=PATIENCE, limits=limits, trust_env=False)


def law_named(name: str, steps: int, width: int, height: int) -> Law:
    """The law of a name on the command line."""
    if name == "identical":
        return identical(steps, width, height)
    return mixed(steps, width, height, sizes=name == "mixed-sizes")


def main() -> int:
    """Print a round for each concurrency, or one for the rate; 1 if an answer was not good."""
    args = _arguments()
    client = Client(args.url, args.seed)
    law = law_named(args.law, args.steps, args.width, args.height)
    if args.rate is not None:
        rounds = {f"open {args.rate}": client.open(law, args.rate * args.capacity, args.pictures)}
    else:
        rounds = {f"closed {c}": client.closed(law, c, max(c, args.pictures)) for c in args.concurrency}
    print(json.dumps({name: found.as_json() for name, found in rounds.items()}, indent=1))
    return int(any(found.errors for found in rounds.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--law", choices=["identical", "mixed", "mixed-sizes"], default="identical")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rate", type=float, help="share of the capacity, for an open loop")
    parser.add_argument("--capacity", type=float, default=1.0, help="pictures a second, as measured before")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
