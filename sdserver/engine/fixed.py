"""Batches of fixed size: a picture's bits then do not depend on what shared its batches.

The last bits of a network's output depend on how many rows a batch has, not on the other rows nor on
a row's place. So every batch is filled up to its budget, and texts are encoded one call at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sdserver.calls import DeviceCall, Key, Predict
from sdserver.engine.engine import Device
from sdserver.jobs.keeping import Keeping


def exact_key(call: DeviceCall) -> Key:
    """The call's batch key, and the length of its context: what shares a batch is computed alike."""
    if isinstance(call, Predict):
        return (*call.batch_key(), call.conditioning.context.shape[0])
    return call.batch_key()


class FixedBatches:
    """A device that always sees full batches.

    Args:
        device: the real one.
        row_budget: rows of a full batch, by key; what the batcher uses too.
    """

    def __init__(self, device: Device, row_budget: Callable[[Key], int]) -> None:
        self._device = device
        self._row_budget = row_budget

    @property
    def name(self) -> str:
        """The real device's."""
        return self._device.name

    @property
    def precision(self) -> str:
        """The real device's."""
        return self._device.precision

    def settle(self) -> None:
        """The real device's."""
        self._device.settle()

    def unload(self) -> None:
        """The real device's."""
        self._device.unload()

    def keep(self, keeping: Keeping) -> None:
        """The real device's."""
        self._device.keep(keeping)

    def run(self, calls: Sequence[DeviceCall]) -> list[Any]:
        """One result per call, in order."""
        key = calls[0].batch_key()
        if key[0] not in ("predict", "decode"):
            return [result for call in calls for result in self._device.run([call])]
        filler = [calls[0]] * (self._row_budget(key) - len(calls))
        return self._device.run([*calls, *filler])[: len(calls)]
