"""Lists of values as people type them for a plot's axis: `1, 2`, `1-5`, `1-10 (+2)`, `0-1 [5]`."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, TypeVar

from sdserver.api.scripts.checks import MAX_SHOWN, refused

MAX_VALUES: Final = 1000
MAX_DIGITS: Final = 20
"""Of whole numbers; each seed has fewer."""

MAX_ITEM: Final = 200
"""Characters of a number or range."""

T = TypeVar("T")
N = TypeVar("N", int, float)

_WHOLE = rf"[+-]?\s*\d{{1,{MAX_DIGITS}}}"
_NUMBER = rf"{_WHOLE}(?:\.\d{{0,{MAX_DIGITS}}})?"


def _patterns(number: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a range by its step, and one by its count, look like."""
    ends = rf"\s*({number})\s*-\s*({number})"
    step = rf"(?:\s*\(\s*([+-]{number.removeprefix('[+-]?')})\s*\))?\s*"
    return re.compile(ends + step), re.compile(ends + r"\s*\[\s*(\d{1,6})\s*\]\s*")


_WHOLE_PATTERNS = _patterns(_WHOLE)
_NUMBER_PATTERNS = _patterns(_NUMBER)
_SINGLE = re.compile(rf"\s*{_WHOLE}\s*")


def split_list(text: str) -> list[str]:
    """The items of a comma-separated list; an item that holds commas stands in double quotes.

    Raises:
        InvalidField: there are too many.
    """
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    try:
        items = [item.strip() for item in chain.from_iterable(rows)]
    except csv.Error as error:
        raise refused(f"The list of values cannot be read ({error}): shorten it.") from None
    return _counted(items)


def join_list(items: Sequence[str]) -> str:
    """The inverse of `split_list`."""
    text = io.StringIO()
    csv.writer(text).writerow(items)
    return text.getvalue().strip()


def whole_numbers(items: Sequence[str]) -> list[int]:
    """Items as whole numbers: each a number, or a range of them that holds both of its ends.

    A range's third part is the step, `1-10 (+2)`, or how many numbers, `1-10 [5]`. As in AUTOMATIC1111, one
    that goes down by steps ends before `end + 2`.

    Raises:
        InvalidField: an item is neither, or there are too many.
    """
    return _counted(list(chain.from_iterable(map(_whole_numbers, _filled(items)))))


def numbers(items: Sequence[str]) -> list[float]:
    """Items as numbers: as `whole_numbers`, but steps go on until they reach the end or pass it.

    Raises:
        InvalidField: an item is no number and no range, or there are too many.
    """
    return _counted(list(chain.from_iterable(map(_numbers, _filled(items)))))


def _filled(items: Sequence[str]) -> list[str]:
    """The items that are not empty, runs of blanks as one: many would take the patterns long."""
    filled = [" ".join(item.split()) for item in items]
    for item in filled:
        if len(item) > MAX_ITEM:
            raise refused(f"{item[:MAX_SHOWN]!r}... is no number and no range: shorten it.")
    return [item for item in filled if item]


def _whole_numbers(item: str) -> Sequence[int]:
    by_step, by_count = _WHOLE_PATTERNS
    if match := by_step.fullmatch(item):
        start, end, step = (_whole(part) if part else 1 for part in match.groups())
        found = range(start, end + 1, _nonzero(step, item))
        return _sized(found, (end + 1 - start) / step)
    if match := by_count.fullmatch(item):
        start, end, count = (_whole(part) for part in match.groups())
        return [int(value) for value in _spread(start, end, count)]
    if _SINGLE.fullmatch(item) is None:
        raise _wrong(item, "a whole number")
    return [_whole(item)]


def _numbers(item: str) -> Sequence[float]:
    by_step, by_count = _NUMBER_PATTERNS
    if match := by_step.fullmatch(item):
        start, end, step = (float(_bare(part)) if part else 1.0 for part in match.groups())
        return _stepped(start, end, _nonzero(step, item))
    if match := by_count.fullmatch(item):
        start, end = (float(_bare(part)) for part in match.groups()[:2])
        return list(_spread(start, end, int(match[3])))
    try:
        value = float(item) if len(item) <= MAX_SHOWN else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(item, "a number")
    return [value]


def _stepped(start: float, end: float, step: float) -> list[float]:
    """From `start` in steps to the first that is not before `end`, computed as NumPy's `arange` does."""
    stop = end + step
    count = (stop - start) / step
    if count > MAX_VALUES:
        raise _too_many()
    # The step that NumPy goes by is the difference of its first two numbers.
    real_step = (start + step) - start
    return [start + place * real_step for place in range(max(0, math.ceil(count)))]


def _spread(start: float, end: float, count: int) -> Iterator[float]:
    """So many numbers from `start` to `end`, both among them, computed as NumPy's `linspace` does."""
    if count > MAX_VALUES:
        raise _too_many()
    parts = count - 1
    step = (end - start) / parts if parts > 0 else 0.0
    for place in range(count):
        yield float(end) if place == parts > 0 else place * step + start


def _nonzero(step: N, item: str) -> N:
    if step == 0:
        raise _wrong(item, "a range, for its step is 0")
    return step


def _bare(text: str) -> str:
    return "".join(text.split())


def _whole(text: str) -> int:
    return int(_bare(text))


def _sized(found: range, count: float) -> range:
    if count > MAX_VALUES:
        raise _too_many()
    return found


def _counted(items: list[T]) -> list[T]:
    if len(items) > MAX_VALUES:
        raise _too_many()
    return items


def _too_many() -> Exception:
    return refused(f"An axis has too many values: at most {MAX_VALUES:,} are allowed.")


def _wrong(item: str, what: str) -> Exception:
    return refused(f"The value {item[:MAX_SHOWN]!r} is not {what}: write such as 1, 2 or 1-5 or 1-9 [3].")
