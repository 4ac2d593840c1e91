"""Servers with the demo checkpoint, and visitors who see their page in Chromium."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from node import LOOPBACK, ROOT, Node, running

from tests.conformance.conftest import write_adapter

if TYPE_CHECKING:
    from tests.browser.browsing import Browser, Visitor

DEMO = ROOT / "models" / "Stable-diffusion" / "demo.safetensors"
HERE = Path(__file__).parent
HOSTILE = "<img src=x onerror=alert(1)>"
"""A name of whatever can be named."""

Visit = Callable[..., "Visitor"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that drives a browser is slow."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """One browser for a module: Playwright's event loop is gone before others' tests run their own."""
    from tests.browser.browsing import chromium  # noqa: PLC0415 - skips where there is no playwright

    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server whose files and styles have names that are HTML."""
    folder = tmp_path_factory.mktemp("node")
    for kind in ("Stable-diffusion", "Lora"):
        (folder / "models" / kind).mkdir(parents=True)
    (folder / "models" / "Stable-diffusion" / f"{HOSTILE}.safetensors").symlink_to(DEMO)
    write_adapter(folder / "models" / "Lora" / f"{HOSTILE}.safetensors")
    style = f'"{HOSTILE}","{{prompt}}, in the style of {HOSTILE}",""\n'
    (folder / "styles.csv").write_text(f"name,prompt,negative_prompt\n{style}")
    with running(folder, "--checkpoint", str(DEMO)) as started:
        started.wait_ready()
        yield started


@pytest.fixture
def visit(browser: "Browser", node: Node) -> Iterator[Visit]:
    """Makes visitors: `visit()` at the plain node, `visit(base, **settings)` elsewhere or with another
    browser. In the end no one of them may have met an error or a request to another host."""
    from tests.browser.browsing import Visitor  # noqa: PLC0415

    visitors: list[Visitor] = []

    def made(base: str | None = None, **settings: Any) -> Visitor:
        visitors.append(Visitor(browser, base or f"http://{LOOPBACK}:{node.port}/", **settings))
        return visitors[-1]

    yield made
    assert [trouble for visitor in visitors for trouble in visitor.leave()] == []
