"""How the log is written: a line for each record, which names the request that it belongs to."""

import json
import logging
import time
from collections.abc import Callable
from typing import Final, Literal

from sdserver.api.correlation import REQUEST_ID

LogFormat = Literal["text", "json"]
ACCESS: Final = "sdserver.access"
PROMPTS: Final = "sdserver.prompts"
_FURTHER: Final = "\n    "


class Lines(logging.Formatter):
    """Text, or one JSON object a line. What clients sent cannot begin a line, nor move a terminal's cursor.

    Args:
        log_format: which of the two.
        redact: takes secrets out.
    """

    def __init__(self, log_format: LogFormat, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._is_json = log_format == "json"
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The record as it is written."""
        message = self._redact(record.getMessage())
        fault = self._redact(self.formatException(record.exc_info)) if record.exc_info else ""
        if self._is_json:
            return self._json(record, message, fault)
        request = REQUEST_ID.get()
        name = f"{record.levelname} {record.name}{f' [{request}]' if request else ''}"
        lines = [*message.splitlines(), *fault.splitlines()]
        return f"{name}: {_FURTHER.join(escaped(line) for line in lines)}"

    def _json(self, record: logging.LogRecord, message: str, fault: str) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        if REQUEST_ID.get():
            fields["request_id"] = REQUEST_ID.get()
        if fault:
            fields["exception"] = fault
        for name, value in getattr(record, "fields", {}).items():
            fields[name] = self._redact(value) if isinstance(value, str) else value
        return json.dumps(fields)


def escaped(text: str) -> str:
    """The text with what is not printable as Python writes it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def write_logs(
    level: str, log_format: LogFormat, redact: Callable[[str], str], *, has_access: bool, has_prompts: bool
) -> None:
    """Have the process's log written to stderr.

    Args:
        level: the least that is written.
        log_format: see `Lines`.
        redact: takes secrets out.
        has_access: write a line for every request, whatever the level.
        has_prompts: the same for prompts.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(log_format, redact))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name, is_on in ((ACCESS, has_access), (PROMPTS, has_prompts)):
        logging.getLogger(name).setLevel(logging.INFO if is_on else logging.CRITICAL + 1)
