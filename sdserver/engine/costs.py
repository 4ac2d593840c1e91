"""What batches have taken, by shape and rows. Pure: it is told all times."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

Key = tuple[Hashable, ...]
"""What calls that share a batch have in common; the first part names their kind."""

SHAPES: Final = 256
"""That are remembered; those not seen for longest are forgotten first."""
WINDOW: Final = 6
"""Batches of a size that are remembered; as many tell what one takes."""
EARLY: Final = 3
FIRST_ROWS: Final = 2
GAIN: Final = 0.04
"""By which a row must be cheaper in a batch of twice the size for that to be worth it."""
RETRY: Final = 256
"""Batches after which the neighbours of the size found are tried again; each time twice as many."""


@dataclass(slots=True)
class Timings:
    """The last batches of one shape, and the number of rows found to be worth running together.

    Sizes are compared only when both were timed lately, by their least times: what else the machine does
    adds to all. So the size grows by trials, twice as large each, until one gains too little; after a while
    half and twice of it are tried once more, since a time may have been wrong.

    Attributes:
        seconds: per row, by the power of two that the number of rows is nearest to.
        batches: how many have run, timed or not.
        size: rows that are worth it, as far as is known.
        tried: the size on trial, 0 for none.
        retry_at: the number of batches at which the next trial begins.
        pause: from that time to the next.
    """

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    batches: int = 0
    size: int = FIRST_ROWS
    tried: int = FIRST_ROWS
    retry_at: int = RETRY
    pause: int = RETRY

    def add(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took that long."""
        self.seconds.setdefault(bucket(rows), deque(maxlen=WINDOW)).append(seconds / rows)
        if self.tried and self._has_shown(self.tried):
            self._end_trial(self.tried)

    def is_known(self, rows: int) -> bool:
        """Whether enough batches of that size were timed."""
        return len(self.seconds.get(bucket(rows), ())) == WINDOW

    def rows(self, most: int) -> int:
        """How many rows a batch may have now, at most `most`: the size found, or the one on trial."""
        if self.tried > self.size and bucket(most) <= self.size:
            self._rest()
        if not self.tried and self.batches >= self.retry_at:
            self.pause *= 2
            self._try(self.size // 2 if self.size > FIRST_ROWS else self.size * 2)
        return min(most, self.tried or self.size)

    def _has_shown(self, rows: int) -> bool:
        """Whether the trial of a size may end: it was timed often enough, or it has proven its worth, which
        more times cannot change.
        """
        count = len(self.seconds.get(rows, ()))
        is_larger = rows > self.size and count >= EARLY and self._gains(self.size, rows)
        return count == WINDOW or is_larger or (rows == self.size and count >= EARLY)

    def _try(self, rows: int) -> None:
        self.tried = rows
        self.seconds.pop(rows, None)

    def _end_trial(self, rows: int) -> None:
        large, small = max(rows, self.size), min(rows, self.size)
        if large == small:
            self._try(2 * rows)
        elif rows == large and self._gains(small, large):
            self.size, self.pause = rows, RETRY
            self._try(2 * rows)
        elif rows == large:
            self._rest()
        elif self._gains(small, large):
            self._try(2 * self.size)
        else:
            self.size, self.pause = rows, RETRY
            if rows > FIRST_ROWS:
                self._try(rows // 2)
            else:
                self._rest()

    def _rest(self) -> None:
        """Try no other size for a while."""
        self.tried, self.retry_at = 0, self.batches + self.pause

    def _gains(self, small: int, large: int) -> bool:
        """Whether a row is so much cheaper in batches of the larger size. Both were timed lately."""
        return min(self.seconds[large]) * (1 + GAIN) <= min(self.seconds[small])


class Costs:
    """The timings of every shape.

    Args:
        every: every so many batches of a size that is known one is timed again. On an accelerator timing
            means to wait for it.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._steps: deque[float] = deque(maxlen=WINDOW)
        self._shapes: OrderedDict[Hashable, Timings] = OrderedDict()

    def of(self, key: Key) -> Timings:
        """The timings of a key's shape."""
        shape = shape_of(key)
        found = self._shapes.setdefault(shape, Timings())
        self._shapes.move_to_end(shape)
        if len(self._shapes) > SHAPES:
            self._shapes.popitem(last=False)
        return found

    def wants_time(self, key: Key, rows: int) -> bool:
        """Whether the next batch shall be timed."""
        timings = self.of(key)
        return not timings.is_known(rows) or timings.batches % self._every == 0

    def ran(self, key: Key, rows: int, seconds: float | None) -> None:
        """A batch ran; `seconds` is None if it was not timed."""
        timings = self.of(key)
        timings.batches += 1
        if seconds is None:
            return
        timings.add(rows, seconds)
        if key[0] == "predict":
            self._steps.append(seconds)

    def step_seconds(self) -> float | None:
        """Of the longest of the UNet batches that were timed last; None before."""
        return max(self._steps, default=None)

    def alone(self, key: Key) -> float | None:
        """Seconds of the smallest batch that was timed: about what a job takes alone; None before."""
        seconds = self.of(key).seconds
        if not seconds:
            return None
        rows = min(seconds)
        return rows * min(seconds[rows])


def bucket(rows: int) -> int:
    """The power of two nearest to a number of rows, by their ratio."""
    below = 1 << (rows.bit_length() - 1)
    return below if rows * rows < 2 * below * below else 2 * below


def shape_of(key: Key) -> Hashable:
    """What a batch's time hangs on beside its rows: kind, checkpoint and size where it is a checkpoint's,
    else the whole key.
    """
    match key:
        case ("predict", (_, int(height), int(width)), checkpoint, *_):
            return ("predict", checkpoint, height, width)
        case ("decode", checkpoint, *_, (_, int(height), int(width))):
            return ("decode", checkpoint, height, width)
        case _:
            return key
