"""Two nodes on loopback, and balancers before them."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from node import CHECKPOINT, Node, free_ports, running, wait_until

from tests.deploy.balancers import Address, Balancer, balancer

BALANCERS = ("nginx", "haproxy", "envoy")
NAME = "pictures.example"
FLAGS = (
    *("--ckpt", str(CHECKPOINT), "--allowed-hosts", NAME),
    *("--max-running", "1", "--max-queue", "16", "--drain-delay", "3"),
)
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that starts nodes is slow."""
    for item in items:
        if HERE in item.path.parents and {"site", "pair"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


class Site:
    """Nodes a and b, each at its address though it ends and comes back, and the balancers before them.

    Attributes:
        addresses: of the nodes.
        nodes: the processes that are there.
        balancers: those that run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._ends: dict[str, contextlib.ExitStack] = {}
        self.addresses = [Address(*free_ports(2)) for _ in range(2)]
        self.nodes: list[Node] = []
        self.balancers: dict[str, Balancer] = {}
        for number in range(2):
            self.nodes.append(self._start(number))
        for node in self.nodes:
            node.wait_ready()

    def restart(self, number: int) -> Node:
        """Start a node again that has ended, and wait until it is ready."""
        assert self.nodes[number].process.poll() is not None
        self.nodes[number] = self._start(number)
        self.nodes[number].wait_ready()
        return self.nodes[number]

    def balancer(self, name: str) -> Balancer:
        """A balancer before the nodes, started if it is not there."""
        if name not in self.balancers:
            self._ends[name] = contextlib.ExitStack()
            folder = self._folder / f"{name}-{len(list(self._folder.iterdir()))}"
            started = self._ends[name].enter_context(balancer(name, folder, self.addresses))
            self.balancers[name] = started
        return self.balancers[name]

    def only(self, name: str) -> Balancer:
        """The balancer, without any other that could ask the nodes how they are."""
        for other in set(self.balancers) - {name}:
            del self.balancers[other]
            self._ends.pop(other).close()
        return self.balancer(name)

    def used(self, one: Balancer, number: int) -> None:
        """Wait until the balancer sends requests to a node."""
        before = self.nodes[number].metric("sdserver_images_total")

        def is_used() -> bool:
            with ThreadPoolExecutor(4) as pool:
                for answer in pool.map(lambda seed: one.txt2img(seed=seed), range(4)):
                    assert answer.status_code == 200, answer.text
            return self.nodes[number].metric("sdserver_images_total") > before

        wait_until(is_used)

    def close(self) -> None:
        """End all."""
        with self._stack:
            for end in self._ends.values():
                end.close()

    def _start(self, number: int) -> Node:
        folder = self._folder / f"node-{number}"
        folder.mkdir(exist_ok=True)
        port, maintenance_port = self.addresses[number].port, self.addresses[number].maintenance_port
        ports = ("--port", str(port), "--maintenance-port", str(maintenance_port))
        node = self._stack.enter_context(running(folder, *FLAGS, *ports))
        node.port, node.maintenance_port = port, maintenance_port
        return node


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two nodes that work on one picture at a time."""
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(site: Site) -> Site:
    """The site, with both nodes there and idle."""
    for number, node in enumerate(site.nodes):
        if node.process.poll() is not None:
            site.restart(number)
    for node in site.nodes:
        node.wait_idle()
    return site


@pytest.fixture(params=BALANCERS)
def one(pair: Site, request: pytest.FixtureRequest) -> Balancer:
    """Each balancer in its turn."""
    return pair.balancer(request.param)


def status_counts(answers: list[requests.Response]) -> dict[int, int]:
    """How often there was which status."""
    found: dict[int, int] = {}
    for answer in answers:
        found[answer.status_code] = found.get(answer.status_code, 0) + 1
    return found


def all_at_once(calls: list[Callable[[], requests.Response]], most: int = 8) -> list[requests.Response]:
    """The answers to requests, so many at a time."""
    with ThreadPoolExecutor(most) as pool:
        futures: list[Future[requests.Response]] = [pool.submit(call) for call in calls]
        return [future.result() for future in futures]


def kill(node: Node) -> None:
    """End a node as a power failure would."""
    node.signal(signal.SIGKILL)
    node.process.wait()
