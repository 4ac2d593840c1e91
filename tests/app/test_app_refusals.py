"""What is refused at the door is counted and logged, and what its client wrote stays harmless."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterator

import pytest
from patience import PATIENCE

from sdserver.app.hosts import known_hosts
from sdserver.app.limits import ConnectionLimits
from sdserver.app.logs import ACCESS, Lines
from sdserver.app.servers import Guard, Serving, bind
from sdserver.ops.logs import Redactor
from tests.app.test_app_limits import echo

GET = "GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"
QUICK = ConnectionLimits(head_seconds=0.3, window=0.3)
REQUESTS = {
    "served": (GET.format(path="/", host="localhost", more=""), None),
    "other name": (GET.format(path="/a?token=hidden", host="evil.test", more=""), (403, "GET", "/a")),
    "two lengths": (
        GET.format(path="/b", host="h", more="Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        (400, "GET", "/b"),
    ),
    "too many headers": (GET.format(path="/c", host="h", more="A: b\r\n" * 200), (431, "GET", "/c")),
    "no HTTP": ("noise\r\n\r\n", (400, "-", "-")),
    "slow": ("GET / HT", (408, "-", "-")),
    "silent": ("", None),
    "slow body": (GET.format(path="/d", host="h", more="Content-Length: 9\r\n"), None),
    "no room": ("", (503, "-", "-")),
}


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """Records of the log of requests."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    log, handler = logging.getLogger(ACCESS), Keep()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def sent(data: bytes, limits: ConnectionLimits = QUICK) -> Counter[int]:
    """What is counted of a connection that sends so much; it is held until the server closes it."""
    counted: Counter[int] = Counter()

    async def live() -> None:
        bound = bind("127.0.0.1", 0, "--port")
        guard = Guard(
            limits, is_known_host=known_hosts(()), on_refused=lambda status: counted.update([status])
        )
        server = Serving(echo, bound, guard=guard)
        await server.start()
        reader, writer = await asyncio.open_connection(*bound.getsockname()[:2])
        writer.write(data)
        if b"Host: localhost" in data:
            await reader.readuntil(b"\r\n\r\n")
        else:
            await reader.read()
        writer.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(live(), PATIENCE))
    return counted


@pytest.mark.parametrize("name", REQUESTS)
def test_each_refusal_is_counted_and_logged_once(name: str, logged: list[logging.LogRecord]) -> None:
    data, refused = REQUESTS[name]
    limits = ConnectionLimits(most=0) if name == "no room" else QUICK
    counted = sent(data.encode(), limits)
    if refused is None:
        assert (counted, logged) == (Counter(), [])
        return
    status, method, path = refused
    assert counted == Counter([status])
    (record,) = logged
    fields = record.__dict__["fields"]
    assert (fields["route"], fields["status"], fields["client"]) == ("refused", status, "127.0.0.1")
    assert (fields.get("method", "-"), fields.get("path", "-")) == (method, path)
    assert record.getMessage().startswith(f"{method} {path} {status}: ")
    assert "hidden" not in str(fields) + record.getMessage()


def test_a_refused_path_begins_no_line_and_shows_no_secret(logged: list[logging.LogRecord]) -> None:
    path = "/%0aERROR%20forged%1b[2J/hunter2-secret" + "x" * 2000
    assert sent(GET.format(path=path, host="evil.test", more="").encode()) == Counter([403])
    redact = Redactor(["hunter2-secret"])
    text, as_json = Lines("text", redact).format(logged[0]), Lines("json", redact).format(logged[0])
    assert all(line.isprintable() for line in text.splitlines())
    assert all(line.startswith("    ") for line in text.splitlines()[1:])
    assert "\\x1b[2J" in text
    assert "\n" not in as_json
    assert json.loads(as_json)["status"] == 403
    for each in (text, as_json):
        assert "hunter2-secret" not in each
        assert len(each) < 2000


def test_nothing_is_logged_unless_that_is_wanted(logged: list[logging.LogRecord]) -> None:
    logging.getLogger(ACCESS).setLevel(logging.CRITICAL + 1)
    assert sent(REQUESTS["other name"][0].encode()) == Counter([403])
    assert logged == []
