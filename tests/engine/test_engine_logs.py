"""Records of an engine process are logged as those of the request that they are about."""

import logging
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from scripted_process import ScriptedProcess

from sdserver.engine.client import EngineClient
from sdserver.engine.logs import about, send_logs
from sdserver.engine.messages import FromEngine, Logged
from sdserver.jobs.events import Cancelled
from tests.engine.test_client import CONFIG, jobs

REQUEST: ContextVar[str] = ContextVar("test_request", default="")


@pytest.fixture
def sent() -> Iterator[list[Logged]]:
    """What a process that logs sends its front."""
    found: list[Logged] = []
    root = logging.getLogger()
    kept = root.handlers
    send_logs(found.append)
    yield found
    root.handlers = kept


def test_a_record_names_the_jobs_that_are_worked_on(sent: list[Logged]) -> None:
    log = logging.getLogger("sdserver.some.part")
    log.warning("before")
    with about(["r/0", "s/0"]):
        log.warning("of a batch")
        with about(["r/0"]):
            log.warning("of one")
    log.warning("after")
    assert [(record.text, record.jobs) for record in sent] == [
        ("before", ()),
        ("of a batch", ("r/0", "s/0")),
        ("of one", ("r/0",)),
        ("after", ()),
    ]


class Requests(logging.Handler):
    """Keeps what was logged, with the request that was under way as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), REQUEST.get()))


def test_the_front_logs_it_as_the_request_of_these_jobs() -> None:
    processes: list[ScriptedProcess] = []
    heard: list[FromEngine] = []

    def supervise(*parts: object) -> ScriptedProcess:
        processes.append(ScriptedProcess(*parts))  # type: ignore[arg-type]
        return processes[-1]

    client = EngineClient(CONFIG, 4, heard.append, lambda _: None, supervise=supervise)  # type: ignore[arg-type]
    client.start()
    for name in ("r", "s"):
        token = REQUEST.set(f"request {name}")
        client.submit(name, jobs(name, 2))
        REQUEST.reset(token)
    kept = Requests()
    log = logging.getLogger("sdserver.some.part")
    log.addHandler(kept)
    try:
        for concerned in (("r/0", "r/1"), ("s/1",), ("r/0", "s/0"), ("gone/0",), ("r/0", "gone/0")):
            processes[0].tell(Logged(log.name, logging.WARNING, "told 100%", concerned))
        processes[0].tell(Cancelled("s/0"))
        processes[0].tell(Cancelled("s/1"))
        processes[0].tell(Logged(log.name, logging.WARNING, "late", ("s/1",)))
    finally:
        log.removeHandler(kept)
    told = ["request r", "request s", "", "", ""]
    assert kept.found == [*(("told 100%", name) for name in told), ("late", "")]
    assert not any(isinstance(message, Logged) for message in heard)
