"""The log that operators are shown."""

import logging

import pytest

from sdserver.ops.logs import LINE_LENGTH, MAX_LINES, LogRing, Redactor


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the password is hunter22, twice hunter22", "the password is ***, twice ***"),
        ("longer hunter2222 goes first", "longer *** goes first"),
        ("header Authorization: Bearer abc.def-123", "header Authorization: Bearer ***"),
        ("header authorization: basic dXNlcjpwYXNz=", "header authorization: basic ***"),
        ("from https://me:secret@host/file?token=abc&x=1 now", "from https://***@host/file?*** now"),
        ("is it a question? yes a=b", "is it a question? yes a=b"),
        ("abc stays, it is too short", "abc stays, it is too short"),
    ],
)
def test_secrets_are_taken_out(text: str, shown: str) -> None:
    assert Redactor(["hunter22", "hunter2222", "abc"])(text) == shown


def ring() -> LogRing:
    return LogRing(Redactor(["hunter22"]), lambda: 0.0)


def test_lines_are_dated_plain_and_bounded() -> None:
    log = ring()
    log.add("one\ntwo \x1b[31mred\x07\nhunter22" + "x" * 9999)
    first, second, third = log.last(10)
    assert first == "1970-01-01T00:00:00Z one"
    assert second.endswith("two ?[31mred?")
    assert third.startswith("1970-01-01T00:00:00Z ***xxx")
    assert len(third) <= LINE_LENGTH + 30
    assert log.last(1) == [third]
    assert log.last(0) == []
    for number in range(2 * MAX_LINES):
        log.add(str(number))
    assert len(log.last(10**9)) == MAX_LINES


def test_it_takes_records_with_their_tracebacks_and_survives_faulty_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, logger = ring(), logging.getLogger("sdserver.tests.ring")
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(log)
    try:
        try:
            raise ValueError("hunter22")
        except ValueError:
            logger.exception("it failed")
        logger.error("%d", "no number")
    finally:
        logger.removeHandler(log)
    text = "\n".join(log.last(100))
    assert "ERROR sdserver.tests.ring: it failed" in text
    assert "ValueError: ***" in text
    assert "hunter22" not in text
