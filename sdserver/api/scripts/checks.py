"""A script's arguments as clients send them, checked: anything may stand in them."""

from collections.abc import Sequence
from typing import Any, Final

from sdserver.api.scripts.script import Argument, Context
from sdserver.errors import InvalidField

FIELD: Final = "script_args"
MAX_SHOWN: Final = 60


def refused(message: str) -> InvalidField:
    """The error for arguments that are no use."""
    return InvalidField(FIELD, message)


class Values:
    """Arguments by their places; null means the default.

    Args:
        arguments: what the script says of them.
        given: as many, as the client sent them.
    """

    def __init__(self, arguments: Sequence[Argument], given: Sequence[Any]) -> None:
        self._arguments = arguments
        self._given = given

    def number(self, place: int, low: float, high: float) -> float:
        """A number in a range.

        Raises:
            InvalidField: it is none.
        """
        value = self._value(place)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # which NaN is not
            raise self._wrong(place, f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, place: int, low: int, high: int) -> int:
        """A whole number in a range; 8.0 is one.

        Raises:
            InvalidField: it is none.
        """
        value = self._value(place)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # A huge float is refused by its size before it is taken as a whole number.
        if not is_number or not low <= value <= high or int(value) != value:
            raise self._wrong(place, f"a whole number from {low} to {high}")
        return int(value)

    def flag(self, place: int) -> bool:
        """Yes or no; 0 and 1 are taken too.

        Raises:
            InvalidField: it is neither.
        """
        value = self._value(place)
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise self._wrong(place, "true or false")
        return bool(value)

    def text(self, place: int, most: int) -> str:
        """Text of at most so many characters.

        Raises:
            InvalidField: it is none, or too long.
        """
        value = self._value(place)
        if not isinstance(value, str) or len(value) > most:
            raise self._wrong(place, f"text of at most {most:,} characters")
        return value

    def choice(self, place: int, choices: Sequence[str]) -> str:
        """One of some names.

        Raises:
            InvalidField: it is none of them.
        """
        value = self._value(place)
        if not isinstance(value, str) or value not in choices:
            raise self._wrong(place, f"one of {', '.join(choices)}")
        return value

    def choices(self, place: int, choices: Sequence[str]) -> frozenset[str]:
        """Some of some names, at least one; a single one may stand without a list.

        Raises:
            InvalidField: there is none, or another is among them.
        """
        value = self._value(place)
        names = [value] if isinstance(value, str) else value
        is_list = isinstance(names, list | tuple) and 0 < len(names) <= len(choices) ** 2
        if not is_list or not all(isinstance(name, str) and name in choices for name in names):
            raise self._wrong(place, f"a list of some of {', '.join(choices)}")
        return frozenset(names)

    def _value(self, place: int) -> Any:
        value = self._given[place]
        return self._arguments[place].value if value is None else value

    def _wrong(self, place: int, wanted: str) -> InvalidField:
        label = self._arguments[place].label
        shown = repr(self._given[place]) if isinstance(self._given[place], bool | float) else ""
        but = f", not {shown}" if len(shown) in range(1, MAX_SHOWN) else ""
        return refused(f"The script's argument {place + 1} ({label!r}) must be {wanted}{but}.")


def check_size(context: Context, width: int, height: int, images: int = 1) -> None:
    """See that a script's pictures are not too large, each as a client's and all as a request's may be.

    Raises:
        InvalidField: they are.
    """
    limits = context.sources.config.limits
    pixels = width * height
    if pixels > limits.max_init_pixels or pixels * images > limits.max_pixels * limits.max_images:
        message = f"The script would make {images:,} pictures of {width:,} x {height:,} pixels"
        raise refused(f"{message}, which is too much: ask for fewer or smaller ones.")
