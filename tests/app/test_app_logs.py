"""Lines of the log: whose request they belong to, no secrets, nothing that clients could forge."""

import json
import logging
from collections.abc import Iterator

import pytest

from sdserver.api.correlation import REQUEST_ID
from sdserver.app.logs import Lines, write_logs
from sdserver.ops.logs import Redactor

REDACT = Redactor(["hunter2-secret"])


def record(message: str, *arguments: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("sdserver.x", logging.WARNING, "", 1, message, arguments, None)
    made.__dict__.update(more)
    return made


@pytest.fixture
def request_id() -> Iterator[str]:
    token = REQUEST_ID.set("abc-1")
    yield "abc-1"
    REQUEST_ID.reset(token)


def test_text_names_the_request(request_id: str) -> None:
    assert Lines("text", REDACT).format(record("made %d", 3)) == "WARNING sdserver.x [abc-1]: made 3"


def test_without_a_request_there_is_no_id() -> None:
    assert Lines("text", REDACT).format(record("made")) == "WARNING sdserver.x: made"
    assert "request_id" not in json.loads(Lines("json", REDACT).format(record("made")))


def test_json_is_one_line_with_the_fields(request_id: str) -> None:
    text = Lines("json", REDACT).format(
        record("a\nb\x1b[31m \ud800", fields={"status": 200, "path": "/x\r\n"})
    )
    assert "\n" not in text
    assert text.isascii()
    found = json.loads(text)
    assert (found["level"], found["logger"], found["message"]) == (
        "WARNING",
        "sdserver.x",
        "a\nb\x1b[31m \ud800",
    )
    assert (found["request_id"], found["status"], found["path"]) == ("abc-1", 200, "/x\r\n")
    assert found["time"].endswith("Z")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_are_taken_out_everywhere(log_format: str) -> None:
    try:
        raise ValueError("https://u:hunter2-secret@host/?token=hunter2-secret")
    except ValueError as error:
        fault = (type(error), error, error.__traceback__)
    made = record(
        "%s and Bearer abcdef123456", "hunter2-secret", exc_info=fault, fields={"path": "/hunter2-secret"}
    )
    text = Lines(log_format, REDACT).format(made)  # type: ignore[arg-type]
    assert "ValueError" in text
    for secret in ("hunter2-secret", "abcdef123456"):
        assert secret not in text


def test_nothing_that_clients_send_begins_a_line_or_moves_the_cursor() -> None:
    text = Lines("text", REDACT).format(record("%s", "x\nERROR forged\r\x1b[2J\x00\u2028y"))
    lines = text.split("\n")
    assert all(line.startswith("    ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)


def test_requests_are_logged_whatever_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    names = ("sdserver.access", "sdserver.prompts")
    try:
        root.handlers = []
        write_logs("error", "json", REDACT, has_access=True, has_prompts=False)
        for name in (*names, "sdserver.other"):
            logging.getLogger(name).info("told")
        (line,) = capsys.readouterr().err.splitlines()
        assert json.loads(line)["logger"] == "sdserver.access"
    finally:
        root.handlers = kept
        root.setLevel(level)
        for name in names:
            logging.getLogger(name).setLevel(logging.NOTSET)
