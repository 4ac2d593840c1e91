"""What batches have taken, by shape and rows. Pure: it is told all times."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from sdserver.engine.trial import Trial

Key = tuple[Hashable, ...]
"""What calls that share a batch have in common; the first part names their kind."""

SHAPES: Final = 256
"""That are remembered; those not seen for longest are forgotten first."""
WINDOW: Final = 6
"""Batches of a size that are remembered."""
FIRST_ROWS: Final = 2
RETRY: Final = 16
"""Batches after which the neighbours of the size found are tried again; each time twice as many."""
MOST_PAUSE: Final = 1024


@dataclass(slots=True)
class Timings:
    """The last batches of one shape, and the number of rows found to be worth running together.

    The size grows by trials, twice as large each, until one gains too little. After a pause half and twice
    of it are tried once more: a trial may have been wrong, or the device have changed.

    Attributes:
        seconds: per row, by the power of two that the number of rows is nearest to.
        batches: how many have run, timed or not.
        size: rows that are worth it, as far as is known.
        trial: of this size and a neighbour, None between trials.
        begins_at: the number of batches at which the next trial begins.
        pause: batches between trials, or until one is given up.
    """

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    batches: int = 0
    size: int = FIRST_ROWS
    trial: Trial | None = None
    begins_at: int = 0
    pause: int = RETRY

    def ran(self, rows: int, seconds: float | None) -> None:
        """A batch of so many rows took that long; None if it was not timed."""
        self.batches += 1
        size = bucket(rows)
        is_first = size not in self.seconds
        if seconds is not None:
            self.seconds.setdefault(size, deque(maxlen=WINDOW)).append(seconds / rows)
        if self.trial is not None:
            # The first batch of a size also pays for what is made for it.
            self.trial.ran(size, None if seconds is None or is_first else seconds / rows)
            self._judge(self.trial)

    def wants_time(self, rows: int, every: int) -> bool:
        """Whether the next batch shall be timed; where nothing hangs on it every so many are."""
        size = bucket(rows)
        is_known = len(self.seconds.get(size, ())) == WINDOW
        is_tried = self.trial is not None and self.trial.wants_time(size)
        return not is_known or is_tried or self.batches % every == 0

    def rows(self, most: int) -> int:
        """How many rows a batch may have now, at most `most`: the size found, or one on trial."""
        if self.trial is None and self.batches >= self.begins_at:
            self._try(is_upward=self.size == FIRST_ROWS)
        trial = self.trial
        if trial is None or trial.large > bucket(most):
            return min(most, self.size)
        return min(most, trial.rows)

    def _judge(self, trial: Trial) -> None:
        """End the trial if it has shown enough, or given time enough to the other direction."""
        is_larger_better = trial.verdict()
        if is_larger_better is None and self.batches < trial.ends_at:
            return
        if is_larger_better is None:
            self._lengthen()
            self._try(is_upward=not trial.is_upward or self.size == FIRST_ROWS)
        elif trial.is_upward and is_larger_better:
            self.size, self.pause = trial.large, RETRY
            self._try(is_upward=True)
        elif trial.is_upward:
            self.trial, self.begins_at = None, self.batches + self.pause
            self._lengthen()
        elif is_larger_better:
            self._try(is_upward=True)
        else:
            self.size, self.pause = trial.small, RETRY
            self._try(is_upward=self.size == FIRST_ROWS)

    def _lengthen(self) -> None:
        self.pause = min(MOST_PAUSE, 2 * self.pause)

    def _try(self, *, is_upward: bool) -> None:
        small = self.size if is_upward else self.size // 2
        last: tuple[int, float | None] = (0, None) if self.trial is None else self.trial.last
        self.trial = Trial(small, is_upward, self.batches + self.pause, last)


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
        return self.of(key).wants_time(rows, self._every)

    def ran(self, key: Key, rows: int, seconds: float | None) -> None:
        """A batch ran; `seconds` is None if it was not timed."""
        self.of(key).ran(rows, seconds)
        if seconds is not None and key[0] == "predict":
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
