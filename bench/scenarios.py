"""What is compared with what. Sides take turns; the table has the medians of their rounds."""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from bench.figures import Round, median
from bench.mix import identical as one_step
from bench.mix import requests
from bench.pictures import difference
from bench.plan import Bench

CLIENTS: Final = (1, 4, 16, 64)
SHARES: Final = (0.5, 0.8, 0.95)
FULL_SIZE: Final = 512
OVERHEAD_MS: Final = 5.0
LEAST_PICTURES: Final = 8


def identical(bench: Bench) -> None:
    """Requests that differ in their seeds only: against the baseline, a static batch, and the floor."""
    clients = bench.plan.clients
    name, law = f"identical c={clients}", bench.plan.identical
    mine: list[float] = []
    theirs: list[float] = []
    mine_by_cpu: list[float] = []
    static: list[Static.Rate] = []
    batch = Static(bench)
    with bench.servers("ours", "naive", clients=clients) as (ours, naive):

        def ask_ours() -> None:
            found, cpu = bench.closed_by_cpu(ours, law, clients, name)
            mine.append(found.throughput)
            mine_by_cpu.append(len(ours.client.pictures) / cpu)

        for _ in range(bench.plan.rounds):
            ask_ours()
            theirs.append(bench.closed(naive, law, clients, name).throughput)
            static.append(batch.rate())
        ask_ours()
    bench.line(f"{name}: ours / NAIVE", mine, theirs, "pictures/s", "naive")
    whole = [rate.per_second for rate in static]
    bench.line(f"{name}: ours / own static batch", mine, whole, "pictures/s", "offline")
    if bench.counts_cpu:
        by_cpu = [rate.per_cpu_second for rate in static]
        unit = "pictures/CPU s"
        bench.line(f"{name}: device's thread / own static batch", mine_by_cpu, by_cpu, unit, "offline")
    bench.line(f"{name}: ours / floor", mine, [1 / _floor(bench)], "pictures/s", "floor")


def _floor(bench: Bench) -> float:
    """Seconds of a picture if all of it were the device's fastest matrix product, with all threads."""
    plan = bench.plan
    rows = 1 if plan.cfg_scale == 1 else 2
    shape = ["--size", str(plan.size), "--steps", str(plan.steps), "--rows", str(rows)]
    sides = ["--sides", *map(str, plan.sides)] if plan.sides else []
    threads = ["--threads", str(max(plan.threads))]
    told = bench.tool("floor", str(plan.checkpoint), *bench.device_arguments(), *shape, *sides, *threads)
    bench.note("floor", told)
    return float(told["seconds_per_picture"])


class Static:
    """Our networks without a server, at the batch size and thread count that give most."""

    class Rate(NamedTuple):
        """Pictures."""

        per_second: float
        per_cpu_second: float

    def __init__(self, bench: Bench) -> None:
        plan = bench.plan
        shape = ["--size", str(plan.size), "--steps", str(plan.steps), "--cfg-scale", str(plan.cfg_scale)]
        self._bench = bench
        self._arguments = [str(plan.checkpoint), *bench.device_arguments(), *shape]
        if (len(plan.threads), len(plan.batches)) == (1, 1):
            self._threads, self._batch = plan.threads[0], plan.batches[0]
            return
        search = ["--rounds", "1", "--batch", *map(str, plan.batches)]
        rates = {
            (threads, int(batch)): max(rounds)
            for threads in plan.threads
            for batch, rounds in self._run(threads, *search)[bench.counts_cpu].items()
        }
        unit = "CPU s" if bench.counts_cpu else "s"
        bench.note(f"static batch pictures/{unit} by threads, batch", {str(key): rates[key] for key in rates})
        self._threads, self._batch = max(rates, key=lambda key: rates[key])

    def rate(self) -> Rate:
        """Of a round."""
        both = self._run(self._threads, "--rounds", "2", "--batch", str(self._batch))
        (found,), (by_cpu,) = (rates.values() for rates in both)
        about = {"threads": self._threads, "batch": self._batch, "rates": found, "rates by CPU": by_cpu}
        self._bench.note("static batch", about)
        return self.Rate(median(found), median(by_cpu))

    def _run(self, threads: int, *arguments: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        told = self._bench.tool("offline", *self._arguments, "--threads", str(threads), *arguments)
        return told["pictures_per_second"], told["pictures_per_cpu_second"]


def mixture(bench: Bench) -> None:
    """Requests that differ in everything, by the work that they are."""
    clients, plan = bench.plan.clients, bench.plan
    rates: dict[str, list[float]] = {"identical": [], "mixed": [], "sizes": [], "naive": []}
    laws = {"mixed": plan.mixed(), "identical": plan.identical, "sizes": plan.mixed(sizes=True)}
    by_cpu: dict[str, list[float]] = {name: [] for name in laws}
    with bench.servers("ours", "naive", clients=clients) as (ours, naive):

        def ask_ours(name: str) -> None:
            found, cpu = bench.closed_by_cpu(ours, laws[name], clients, f"{name} c={clients}")
            rates[name].append(found.work_rate)
            by_cpu[name].append(ours.client.work / cpu)

        for name in ("mixed", "sizes"):  # whose shapes are seen for the first time
            bench.closed(ours, laws[name], clients, f"{name} c={clients}, warming up")
        for _ in range(plan.rounds):
            for name in laws:
                ask_ours(name)
            found = bench.closed(naive, laws["mixed"], clients, f"mixed c={clients}")
            rates["naive"].append(found.work_rate)
        ask_ours("mixed")
    unit = "rows of 512x512/s"
    bench.line(f"c={clients}: mixed / identical, ours", rates["mixed"], rates["identical"], unit, "mixed")
    bench.line(f"c={clients}: mixed sizes / identical, ours", rates["sizes"], rates["identical"], unit)
    bench.line(f"mixed c={clients}: ours / NAIVE", rates["mixed"], rates["naive"], unit)
    if bench.counts_cpu:
        name, unit = f"c={clients}: mixed / identical, device's thread", "rows of 512x512/CPU s"
        bench.line(name, by_cpu["mixed"], by_cpu["identical"], unit, "mixed")


def latency(bench: Bench) -> None:
    """One client: how long a picture takes, eagerly and compiled."""
    _latency(bench, (), "latency", "c=1 latency: ours / NAIVE")
    if bench.plan.compiled:
        _latency(bench, bench.plan.compiled, "compiled", "c=1 latency: ours, compiled / NAIVE")


def _latency(bench: Bench, flags: tuple[str, ...], goal: str, name: str) -> None:
    law, mine, theirs = bench.plan.identical, [], []
    with bench.servers("ours", "naive", clients=1, flags=flags) as (ours, naive):
        for _ in range(bench.plan.rounds):
            mine.append(bench.closed(ours, law, 1, f"c=1 {goal}").p50)
            theirs.append(bench.closed(naive, law, 1, f"c=1 {goal}").p50)
        mine.append(bench.closed(ours, law, 1, f"c=1 {goal}").p50)
    bench.line(name, mine, theirs, "s, p50", goal)


def overhead(bench: Bench) -> None:
    """CPU time beside the device's thread, for a picture of 512x512 pixels in one step.

    That is all of the front process: receiving, checking and queueing the request, the engine's messages,
    PNG, base64, JSON, sending, and what it does while it waits; and the engine's threads that receive jobs,
    and pack and send what it says. The engine runs on one thread, so that its others have no device work.
    What the device's thread does itself, programs and samplers among it, belongs to the engine.
    """
    law = one_step(1, FULL_SIZE, FULL_SIZE)
    spent: list[float] = []
    pictures = max(LEAST_PICTURES, bench.plan.pictures // 4)
    with bench.servers("ours", clients=1, threads=1) as (ours,):
        ours.client.same(list(itertools.islice(requests(law, 700), 2)), 1)
        for k in range(bench.plan.rounds):
            before = ours.server.beside_cpu_seconds()
            ours.client.same(list(itertools.islice(requests(law, 701 + k), pictures)), 1)
            after = ours.server.beside_cpu_seconds()
            front, engine = (
                1000 * (end - start) / pictures for start, end in zip(before, after, strict=True)
            )
            spent.append(front + engine)
            bench.note("overhead", {"front ms": front, "engine's side ms": engine, "pictures": pictures})
    name = f"CPU outside the engine, 512x512 picture / {OVERHEAD_MS:g} ms"
    bench.line(name, spent, [OVERHEAD_MS], "ms", "overhead")


def step(bench: Bench) -> None:
    """One step of the full-size UNet."""
    rounds = ["--rounds", str(bench.plan.rounds)]
    found = {
        threads: bench.tool("steps", "sd15", *rounds, "--threads", str(threads))["seconds"]
        for threads in bench.plan.threads
    }
    bench.note("step", found)

    def best(name: str) -> list[float]:
        rows = [seconds[name] for seconds in found.values() if name in seconds]
        return min(rows, key=median, default=[])

    stock = best("stock fp32")
    bench.line("SD1.5 step 512x512: ours fp32 / stock fp32", best("ours fp32"), stock, "s", "step")
    if best("ours bf16"):
        bench.line("SD1.5 step 512x512: ours bf16 / stock fp32", best("ours bf16"), stock, "s", "step bf16")


def exact(bench: Bench) -> None:
    """The same requests alone and under load, by their pixels."""
    asked = list(itertools.islice(requests(bench.plan.mixed(), 800), bench.plan.clients))
    for flags, name in (((), "fast"), (("--deterministic",), "deterministic")):
        with bench.servers("ours", clients=1, flags=flags) as (ours,):
            alone = ours.client.same(asked, 1)
            loaded = ours.client.same(asked, len(asked))
        apart = difference(alone, loaded)
        bench.note(f"alone and under load, {name}", {"equal": apart.equal, "largest": apart.largest})
        if flags:
            bench.line(
                "pictures equal alone and under load, deterministic", [apart.equal], [1.0], "share", "equal"
            )
        else:
            bench.line(
                "pixels within 2 of 255 alone and under load, fast", [apart.within], [1.0], "share", "near"
            )


def arrivals(bench: Bench) -> None:
    """Requests that come as in a Poisson process, at shares of each server's own capacity."""
    clients, law = bench.plan.clients, bench.plan.mixed()
    with bench.servers("ours", "naive", clients=clients) as (ours, naive):
        alone = bench.closed(ours, law, 1, "mixed c=1").p50
        capacity = {
            driven.server.kind: bench.closed(driven, law, clients, "capacity") for driven in (ours, naive)
        }
        found: dict[tuple[str, float], list[Round]] = {}
        for _, share, driven in itertools.product(range(bench.plan.rounds), SHARES, (ours, naive)):
            kind = driven.server.kind
            one = bench.open(driven, law, share * capacity[kind].throughput, f"open {share}")
            found.setdefault((kind, share), []).append(one)
    for share in SHARES:
        mine, theirs = ([one.p99 for one in found[kind, share]] for kind in ("ours", "naive"))
        bench.line(f"mixed at {share:.0%} of own capacity: ours / NAIVE", mine, theirs, "s, p99")
        if share == 0.8:
            bench.line("mixed at 80%: p99 / p50 of one client, ours", mine, [alone], "s", "open")


def sweep(bench: Bench) -> None:
    """Requests that differ in their seeds only, by the number of clients."""
    for clients in CLIENTS:
        law, mine, theirs = bench.plan.identical, [], []
        with bench.servers("ours", "naive", clients=clients) as (ours, naive):
            for _ in range(bench.plan.rounds):
                mine.append(bench.closed(ours, law, clients, f"sweep c={clients}").throughput)
                theirs.append(bench.closed(naive, law, clients, f"sweep c={clients}").throughput)
        bench.line(f"sweep c={clients}: ours / NAIVE", mine, theirs, "pictures/s")


SCENARIOS: Final[Mapping[str, Callable[[Bench], None]]] = MappingProxyType(
    {
        "identical": identical,
        "mixed": mixture,
        "latency": latency,
        "overhead": overhead,
        "step": step,
        "exact": exact,
        "open": arrivals,
        "sweep": sweep,
    }
)
