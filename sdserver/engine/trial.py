"""Two sizes of batches in turn: which makes a row cheaper. Pure: it is told all times."""

from dataclasses import dataclass, field
from typing import Final

GAIN: Final = 0.04
"""By which a row must be cheaper in a batch of twice the size for that to be worth it."""
CLEAR: Final = 0.1
"""By which it must be cheaper, or dearer, for a few comparisons to suffice."""
FEW: Final = 3
"""What disturbs a single batch spoils two of them, with both of its neighbours."""
COMPARISONS: Final = 7
"""After which the least times decide, where few comparisons do not."""


@dataclass(slots=True)
class Trial:
    """A size and twice of it.

    Batches of both sizes are run in turn. What else the machine does may slow all by half for seconds, but
    mostly two neighbours alike; and single batches, but not all of a size.

    Attributes:
        small: rows of the one, a power of two.
        large: rows of the other, twice as many.
        is_upward: whether the small one is the size found so far.
        ends_at: the number of batches at which it is given up if too few rows wait for a large one.
        last: the size of the last batch, 0 for none, and seconds a row, None where nobody knows.
        gains: for each two neighbours, seconds a row in the small batch by those in the large one.
        least: the least of the times that were compared, by size.
    """

    small: int
    is_upward: bool
    ends_at: int
    last: tuple[int, float | None] = (0, None)
    gains: list[float] = field(default_factory=list)
    least: dict[int, float] = field(default_factory=dict)

    @property
    def large(self) -> int:
        """Twice the small size."""
        return 2 * self.small

    @property
    def rows(self) -> int:
        """Of the next batch."""
        return self.small if self.last[0] in (0, self.large) else self.large

    def wants_time(self, size: int) -> bool:
        """Whether a batch of that size, a power of two, can be compared, or its follower with it."""
        return size == self.large or (size == self.small and self.last[0] == self.large)

    def ran(self, size: int, seconds: float | None) -> None:
        """A batch of that size took so long a row; None if nobody knows, or it is no measure."""
        before, earlier = self.last
        self.last = size, seconds
        if seconds is None or earlier is None or {before, size} != {self.small, self.large}:
            return
        times = {before: earlier, size: seconds}
        self.gains.append(times[self.small] / times[self.large])
        self.least = {one: min(times[one], self.least.get(one, times[one])) for one in times}

    def verdict(self) -> bool | None:
        """Whether the large size is worth it; None as long as that is open."""
        if len(self.gains) < FEW:
            return None
        gain = self.least[self.small] / self.least[self.large]
        if min(gain, *self.gains) >= 1 + CLEAR:
            return True
        if max(gain, *self.gains) <= 1 - CLEAR:
            return False
        return gain >= 1 + GAIN if len(self.gains) >= COMPARISONS else None
