"""How many rows of a shape fit the device's free memory, learnt from what earlier batches took."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import torch

from sdserver.calls import Key

SHARE: Final = 0.9
"""Of the free memory that a batch may take: allocators lose some between blocks."""
ROW_BYTES: Final = 32 << 10
"""Of UNet activations for a cell of the latent in a format of two bytes: the guess before the first batch."""
PIXEL_BYTES: Final = 2 << 10
"""Of VAE activations for a pixel, likewise."""
CELL_PIXELS: Final = 64
LEAST_SHARE: Final = 16
"""Of the guess, the part below which what was counted is not believed."""
SHAPES: Final = 256
"""That are remembered; those not seen for longest are forgotten first."""
FIRST_RUNS: Final = 4
AGAIN: Final = 16
"""Of a shape's batches, the first ones and then every so many are measured: torch takes its time to tell."""
FRESH: Final = 0.5
"""Seconds that a look at the free memory holds: it is asked for before every batch."""


def rows_that_fit(free: int, row_bytes: int) -> int:
    """Rows for a batch, at least 1: where even one does not fit, trying is how to find out."""
    return max(1, int(free * SHARE) // max(1, row_bytes))


class Gauge(Protocol):
    """The device's memory."""

    def free(self) -> int | None:
        """Bytes that tensors may still take; None if nobody knows."""
        ...

    def begin(self) -> int:
        """Count the most that is taken from now on; returns what is taken now."""
        ...

    def most(self) -> int:
        """The most that was taken since."""
        ...


class CudaGauge:
    """A CUDA device's memory.

    Attributes:
        peaks: what `torch.cuda.memory_stats` counted as most before it was begun to count anew.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.peaks: dict[str, int] = {}

    def free(self) -> int:
        """What nobody has, and what this process holds without use."""
        free, _ = torch.cuda.mem_get_info(self._device)
        stats = torch.cuda.memory_stats(self._device)
        unused = stats.get("reserved_bytes.all.current", 0) - stats.get("allocated_bytes.all.current", 0)
        return int(free + unused)

    def begin(self) -> int:
        """As `Gauge`; the peaks so far are kept."""
        for name, value in torch.cuda.memory_stats(self._device).items():
            if name.endswith(".all.peak"):
                self.peaks[name] = max(value, self.peaks.get(name, 0))
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)

    def most(self) -> int:
        """As `Gauge`."""
        return torch.cuda.max_memory_allocated(self._device)


class RowMemory:
    """What rows take, by kind, checkpoint and size.

    Args:
        gauge: None where memory cannot be measured.
        itemsize: bytes of a number of the networks.
        clock: seconds, monotonic.
    """

    def __init__(
        self, gauge: Gauge | None, itemsize: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._gauge = gauge
        self._itemsize = itemsize
        self._clock = clock
        self._bytes: OrderedDict[Hashable, int] = OrderedDict()
        self._runs: dict[Hashable, int] = {}
        self._looked: float | None = None
        self._free: int | None = None

    def fitting(self, key: Key) -> int | None:
        """Rows of a batch key that fit now; None if nobody knows, or for calls that are not bounded so."""
        shape = shape_of(key)
        if self._gauge is None or shape is None:
            return None
        if self._looked is None or self._clock() - self._looked >= FRESH:
            self._looked, self._free = self._clock(), self._gauge.free()
        if self._free is None:
            return None
        return rows_that_fit(self._free, self._bytes.get(shape) or self._guess(key))

    @contextmanager
    def measured(self, key: Key, rows: int) -> Iterator[None]:
        """Take note of what the batch of a key that runs inside took at most.

        A batch that fails, or is run in halves, tells nothing.
        """
        shape = shape_of(key)
        if self._gauge is None or shape is None:
            yield
            return
        self._runs[shape] = self._runs.get(shape, 0) + 1
        if self._runs[shape] > FIRST_RUNS and self._runs[shape] % AGAIN:
            yield
            return
        before = self._gauge.begin()
        yield
        taken = self._gauge.most() - before
        # A replayed graph takes what it took when it was recorded, which is not counted again.
        self._bytes[shape] = max(self._guess(key) // LEAST_SHARE, taken // rows)
        self._bytes.move_to_end(shape)
        if len(self._bytes) > SHAPES:
            forgotten, _ = self._bytes.popitem(last=False)
            self._runs.pop(forgotten, None)

    def _guess(self, key: Key) -> int:
        match key:
            case ("predict", (_, int(height), int(width)), *_):
                size = ROW_BYTES * height * width
            case ("encode", *_, (_, int(height), int(width))):
                size = PIXEL_BYTES * height * width
            case (*_, (_, int(height), int(width))):
                size = PIXEL_BYTES * CELL_PIXELS * height * width
            case _:
                size = 1
        return size * self._itemsize // 2


def shape_of(key: Key) -> Hashable:
    """What a row's memory hangs on: kind, weights and size; None for calls that take little."""
    match key:
        case ("predict", (_, int(height), int(width)), weights, *_):
            return ("predict", weights, height, width)
        case (("decode" | "encode") as kind, weights, *_, (_, int(height), int(width))):
            return (kind, weights, height, width)
        case _:
            return None
