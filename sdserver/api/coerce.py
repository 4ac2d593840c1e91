"""The leniency of pydantic 1, which AUTOMATIC1111's clients lean on, and the limits JSON lacks.

Numbers may come as text, whole numbers with a fraction (it is cut off), text as a number, switches as
`"on"`. Null means the default in every field. Numbers must be finite, text must be encodable.
Messages and types are pydantic 1's where AUTOMATIC1111 has them.
"""

import math
from typing import Final

from pydantic_core import PydanticCustomError

MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 40
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})


def to_int(value: object) -> int:
    """A whole number from a number or its text; a fraction is cut off."""
    if isinstance(value, str) and len(value) <= MAX_DIGITS:
        try:
            return int(value)
        except ValueError:
            raise _error("integer", "value is not a valid integer") from None
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    if isinstance(value, int):
        return int(value)
    raise _error("integer", "value is not a valid integer")


def to_float(value: object) -> float:
    """A finite number from a number or its text."""
    if isinstance(value, str | int | float) and len(str(value)[: MAX_DIGITS * 10]) <= MAX_DIGITS:
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise _error("float", "value is not a valid float") from None
        if math.isfinite(number):
            return number
    raise _error("float", "value is not a valid float")


def to_bool(value: object) -> bool:
    """A switch from true, false, 0, 1 or the words for them."""
    if isinstance(value, str):
        if value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
    elif isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise _error("bool", "value could not be parsed to a boolean")


def to_str(value: object) -> str:
    """Text from text or a number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**MAX_DIGITS:
        value = str(value)
    if not isinstance(value, str):
        raise _error("str", "str type expected")
    _check_text(value)
    return value


def to_list(value: object) -> list[object]:
    """A list of any JSON."""
    if not isinstance(value, list):
        raise _error("list", "value is not a valid list")
    _check_json(value, MAX_DEPTH)
    return value


def to_dict(value: object) -> dict[str, object]:
    """An object of any JSON."""
    if not isinstance(value, dict):
        raise _error("dict", "value is not a valid dict")
    _check_json(value, MAX_DEPTH)
    return value


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "text holds half a character (a lone surrogate): send complete ones"
        raise PydanticCustomError("value_error.str.unicode", message) from None


def _check_json(value: object, depth: int) -> None:
    if depth == 0:
        raise PydanticCustomError("value_error.json.depth", "value is nested too deeply")
    match value:
        case str():
            _check_text(value)
        case float() if not math.isfinite(value):
            raise _error("float", "value is not a valid float")
        case int() if not -(2**63) <= value < 2**64:
            raise _error("integer", "value is not a valid integer")
        case list():
            for item in value:
                _check_json(item, depth - 1)
        case dict():
            for key, item in value.items():
                _check_text(key)
                _check_json(item, depth - 1)


def _error(kind: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(f"type_error.{kind}", message)
