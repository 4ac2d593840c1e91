"""Which checkpoints stay in memory: on the device, and set aside in the CPU's."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import torch

from sdserver.bundle.memory import host_memory, is_out_of_memory, release, spare_of
from sdserver.jobs.keeping import Keeping


class Movable(Protocol):
    """A loaded checkpoint."""

    @property
    def bytes(self) -> int:
        """Memory that its parameters take."""
        ...

    def move(self, device: torch.device) -> None:
        """Have all parameters lie on a device; it runs only on its own."""
        ...


LoadedT = TypeVar("LoadedT", bound=Movable)


class Checkpoints(Generic[LoadedT]):
    """The checkpoints in memory; those that were used last stay.

    Args:
        device: where they run.
        limits: may be changed at any time.
        free: bytes of the CPU's memory that may still be taken, None if nobody knows.
    """

    def __init__(
        self, device: torch.device, limits: Keeping, free: Callable[[], int | None] | None = None
    ) -> None:
        self._device = device
        self._limits = limits
        self._free = free or _spare
        # A CPU's networks lie where they would be set aside.
        self.sets_aside = device.type != "cpu"
        self._loaded: OrderedDict[str, LoadedT] = OrderedDict()
        self._aside: OrderedDict[str, LoadedT] = OrderedDict()

    def __iter__(self) -> Iterator[LoadedT]:
        """Those on the device, longest unused first."""
        return iter(list(self._loaded.values()))

    def peek(self, name: str) -> LoadedT | None:
        """A checkpoint that is on the device; it does not count as used."""
        return self._loaded.get(name)

    @property
    def limits(self) -> Keeping:
        return self._limits

    @limits.setter
    def limits(self, limits: Keeping) -> None:
        self._limits = limits
        self._leave(limits.checkpoints, self._most_loaded)

    def get(self, name: str) -> LoadedT | None:
        """A checkpoint ready to run, brought back if it was set aside; None if it must be read."""
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        loaded = self._aside.pop(name, None)
        if loaded is None:
            return None
        self._leave(self._limits.checkpoints - 1, self._most_loaded - 1)
        if not self._moved(loaded, self._device):
            return None
        self._loaded[name] = loaded
        return loaded

    def drop_unless(self, name: str, suits: Callable[[LoadedT], bool]) -> None:
        """Drop a checkpoint that is of no use as it lies in memory."""
        for place in (self._loaded, self._aside):
            if name in place and not suits(place[name]):
                del place[name]
                release(self._device)

    def put(self, name: str, loaded: LoadedT) -> None:
        """Keep one that was read."""
        self._loaded[name] = loaded

    def make_room(self, size: int) -> None:
        """Set aside or drop those that were not used for longest, so that one more fits.

        Args:
            size: bytes that it will take.
        """
        self._leave(self._limits.checkpoints - 1, self._most_loaded - 1)
        if not self.sets_aside:
            while self._loaded and self._lacks(size):
                self._loaded.popitem(last=False)
                release(self._device)

    def leave_device(self) -> bool:
        """Set all aside, or drop those that the CPU's memory does not suffice for; whether there were any.

        On a CPU, setting aside would free nothing: all are dropped.
        """
        were_any = bool(self._loaded)
        self._leave(self._limits.checkpoints, 0)
        release(self._device)
        return were_any

    def clear(self) -> None:
        """Drop all."""
        self._loaded.clear()
        self._aside.clear()

    @property
    def _most_loaded(self) -> int:
        return self._limits.on_device if self.sets_aside else self._limits.checkpoints

    def _leave(self, most: int, most_loaded: int) -> None:
        """At most so many in memory, and so many of them on the device."""
        before = len(self._loaded) + len(self._aside)
        while len(self._loaded) + len(self._aside) > max(0, most):
            (self._aside or self._loaded).popitem(last=False)
        while len(self._loaded) > max(0, most_loaded):
            self._set_aside(*self._loaded.popitem(last=False))
        if before > len(self._loaded) + len(self._aside):
            release(self._device)

    def _set_aside(self, name: str, loaded: LoadedT) -> None:
        """One that left the device; others that were set aside make room for it, or it is dropped."""
        if not self.sets_aside:
            return
        while self._aside and self._lacks(loaded.bytes):
            self._aside.popitem(last=False)
            release(torch.device("cpu"))
        if not self._lacks(loaded.bytes) and self._moved(loaded, torch.device("cpu")):
            self._aside[name] = loaded

    def _lacks(self, size: int) -> bool:
        """Whether the CPU's memory does not suffice for so many bytes more."""
        free = self._free()
        return free is not None and free < size

    def _moved(self, loaded: LoadedT, device: torch.device) -> bool:
        """Whether the memory there sufficed; a checkpoint that was moved in part is of no use."""
        try:
            loaded.move(device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True


def _spare() -> int | None:
    return spare_of(host_memory())
