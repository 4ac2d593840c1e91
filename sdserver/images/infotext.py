"""AUTOMATIC1111's infotext: the lines of text that say how a picture was made.

<prompt, may span lines>
Negative prompt: <text, may span lines>        only if there is one
Key: value, Key: value, ...                    one line
"""

import json
import re
from collections.abc import Mapping

InfoValue = str | int | float | bool | None

NEGATIVE_PREFIX = "Negative prompt:"
LEADING_KEYS = (
    "Steps",
    "Sampler",
    "Schedule type",
    "CFG scale",
    "Image CFG scale",
    "Seed",
    "Face restoration",
    "Size",
    "Model hash",
    "Model",
    "FP8 weight",
    "Cache FP16 weight for LoRA",
    "VAE hash",
    "VAE",
    "Variation seed",
    "Variation seed strength",
    "Seed resize from",
    "Denoising strength",
    "Conditional mask weight",
    "Clip skip",
    "ENSD",
    "Token merging ratio",
    "Token merging ratio hr",
    "Init image hash",
    "RNG",
    "Tiling",
)
TRAILING_KEYS = ("Version", "User")

_KEY_RUN = re.compile(r"[\w \-/]++")
_SPACE = re.compile(r"\s*+")
_QUOTED_PART = re.compile(r'"(?:\\.|[^\\"])++')
_PLAIN = re.compile(r"[^,]*+")
_SIZE = re.compile(r"(\d+)x(\d+)")
_MIN_PAIRS = 3


def render(prompt: str, negative_prompt: str, values: Mapping[str, InfoValue]) -> str:
    """Write an infotext.

    Known keys come in AUTOMATIC1111's order, others after them in the mapping's, `Version` and `User`
    last. A value of None is left out; one that equals its key prints the key alone.
    """
    ordered = [key for key in LEADING_KEYS if key in values]
    ordered += [key for key in values if key not in LEADING_KEYS and key not in TRAILING_KEYS]
    ordered += [key for key in TRAILING_KEYS if key in values]
    pairs = [(key, values[key]) for key in ordered if values[key] is not None]
    parameters = ", ".join(key if key == value else f"{key}: {quote(value)}" for key, value in pairs)
    negative = f"\n{NEGATIVE_PREFIX} {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{parameters}".strip()


def quote(value: InfoValue) -> str:
    """A value as it stands in the line: JSON if its text holds a comma, a colon or a line end."""
    text = str(value)
    if not any(mark in text for mark in ",:\n"):
        return text
    return json.dumps(text, ensure_ascii=False)


def unquote(text: str) -> str:
    """The inverse of `quote`, for the text of a value."""
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def split(text: str) -> tuple[str, str, dict[str, str]]:
    """Read an infotext: prompt, negative prompt, and the values exactly as written.

    The last line holds values only if it has at least three pairs, otherwise it is part of the
    prompt. Sizes such as `512x768` become two entries, `Size-1` and `Size-2`.
    """
    lines = text.strip().split("\n")
    pairs = _pairs(lines[-1])
    if len(pairs) < _MIN_PAIRS:
        pairs = []
    else:
        lines.pop()
    prompt: list[str] = []
    negative: list[str] = []
    part = prompt
    for raw in lines:
        line = raw.strip()
        if line.startswith(NEGATIVE_PREFIX):
            part = negative
            line = line.removeprefix(NEGATIVE_PREFIX).strip()
        part.append(line)
    return _joined(prompt), _joined(negative), _values(pairs)


def _pairs(line: str) -> list[tuple[str, str]]:
    """Keys and values of a line, as written. Takes time linear in its length."""
    pairs: list[tuple[str, str]] = []
    position = 0
    quotes_close = True
    while (run := _KEY_RUN.search(line, position)) is not None:
        position = run.end()
        key = run[0].lstrip(" -/")
        if len(key) < 2 or not line.startswith(":", position):
            continue
        start = _end(_SPACE, line, position + 1)
        end = _end(_PLAIN, line, start)
        if quotes_close and line.startswith('"', start):
            closing = _end(_QUOTED_PART, line, start)
            # Where one is not closed before the line's end, none after it is.
            quotes_close = closing < len(line)
            if closing > start and (closing + 1 == len(line) or line.startswith('",', closing)):
                end = closing + 1
        pairs.append((key, line[start:end]))
        position = end + 1
    return pairs


def _end(pattern: re.Pattern[str], line: str, position: int) -> int:
    """Where a match that begins at the position ends; the position itself if there is none."""
    match = pattern.match(line, position)
    return match.end() if match else position


def _joined(lines: list[str]) -> str:
    """Lines joined; those before the first that is not empty are dropped, as AUTOMATIC1111 does."""
    return "\n".join(lines).lstrip("\n")


def _values(pairs: list[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, raw in pairs:
        value = unquote(raw)
        size = _SIZE.fullmatch(value)
        if size:
            values[f"{key}-1"], values[f"{key}-2"] = size.group(1), size.group(2)
        else:
            values[key] = value
    return values
