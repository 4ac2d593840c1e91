"""How many rows a batch may have."""

from collections.abc import Callable
from typing import Final

from sdserver.engine.costs import Costs, Key

FULL_LATENT_AREA: Final = 64 * 64
TEXT_ROWS: Final = 64
DECODE_ROWS: Final = 2
MOST_DECODE_ROWS: Final = 8
FIXED_ROWS: Final = 16
"""Of a UNet batch in deterministic mode, at most: each is filled up to its size, however few rows wait."""
LONGEST_DECODE: Final = 2.0
"""Of decoding pictures, in UNet batches: so long the others' next step may be held up."""


def row_budget(max_batch_rows: int) -> Callable[[Key], int]:
    """Rows a batch of a key may have: fewer for latents larger than those of 512x512 pixels.

    Pictures are decoded, and described, few at a time, so that they never stall the others' steps for long.
    """

    def budget(key: Key) -> int:
        match key:
            case ("predict", (_, int(height), int(width)), *_):
                return max(2, min(max_batch_rows, max_batch_rows * FULL_LATENT_AREA // (height * width)))
            case ("decode" | "encode" | "caption" | "score" | "feature" | "faces", *_):
                return DECODE_ROWS
            case _:
                return TEXT_ROWS

    return budget


class LearntBudget:
    """Rows that are worth running together, up to a limit, learnt from what batches took.

    UNet batches of a shape begin with two rows and grow as long as that makes a row cheaper, see
    `costs.Timings`: larger ones would only hold up others and take memory. Memory that does not suffice
    shows in the times, too: such a batch is run in halves. Pictures are decoded so many at a time as take
    no longer than two UNet batches, if each takes as long as one alone.

    Args:
        most: the limit, by key.
        costs: what batches took; somebody else tells it.
    """

    def __init__(self, most: Callable[[Key], int], costs: Costs) -> None:
        self._most = most
        self._costs = costs

    def __call__(self, key: Key) -> int:
        """How many rows a batch of the key may have now."""
        match key:
            case ("predict", *_):
                return self._costs.of(key).rows(self._most(key))
            case ("decode", *_, (_, int(height), int(width))):
                return self._decoded(key, height * width)
            case _:
                return self._most(key)

    def _decoded(self, key: Key, area: int) -> int:
        least = self._most(key)
        most = max(least, min(MOST_DECODE_ROWS, MOST_DECODE_ROWS * FULL_LATENT_AREA // area))
        step, alone = self._costs.step_seconds(), self._costs.alone(key)
        if step is None or alone is None:
            return least
        return max(least, min(most, int(LONGEST_DECODE * step / alone)))


def bounded(most: Callable[[Key], int], fitting: Callable[[Key], int | None]) -> Callable[[Key], int]:
    """No more rows than memory suffices for, where that is known."""

    def budget(key: Key) -> int:
        fit = fitting(key)
        return most(key) if fit is None else max(1, min(most(key), fit))

    return budget
