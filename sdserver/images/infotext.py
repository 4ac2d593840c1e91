"""AUTOMATIC1111's infotext: the lines of text that say how a picture was made.

<prompt, may span lines>
Negative prompt: <text, may span lines>        only if there is one
Key: value, Key: value, ...                    one line
"""

import json
import re
from collections.abc import Mapping
from itertools import islice

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

_KEY = r"(?<![\w \-/])[ \-/]*+(\w[\w \-/]++):\s*+"
_VALUE = r'("(?:[^\\"]++|\\.)++"(?=,|\Z)|[^,]*+)'
_PAIR = re.compile(_KEY + _VALUE)
_JSON_TEXT = re.compile(r'"(?:[^\\"\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"')
_SIZE = re.compile(r"(\d+)x(\d+)")
_MIN_PAIRS = 3
MAX_PAIRS = 5000
"""Values of an infotext that are read; real ones have a few dozen."""


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
    return str(json.loads(text)) if _JSON_TEXT.fullmatch(text) else text


def split(text: str) -> tuple[str, str, dict[str, str]]:
    """Read an infotext: prompt, negative prompt, and the values exactly as written.

    The last line holds values only if it has at least three pairs, otherwise it is part of the
    prompt; the first `MAX_PAIRS` are read. Sizes such as `512x768` become two entries, `Size-1` and
    `Size-2`.
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
    """Keys and values of a line, as written. Takes time linear in its length.

    A run of a key's letters is looked at once, from its beginning. So is the text after a quotation mark:
    it ends at the next one that could begin a value, for no backslash stands before such a one.
    """
    return [(pair[1], pair[2]) for pair in islice(_PAIR.finditer(line), MAX_PAIRS)]


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
