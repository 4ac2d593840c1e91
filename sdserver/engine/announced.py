"""A device that says beforehand when a call may take long, and ends the process when it is lost."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from sdserver.calls import Decode, DeviceCall, Encode, EncodeText, Key, Predict, Preview, UseModel
from sdserver.engine.engine import Device
from sdserver.engine.messages import EXIT_LOST, LongCall, Pulse
from sdserver.jobs.keeping import Keeping

log = logging.getLogger(__name__)

LOAD_SECONDS: Final = 600.0
FIRST_SECONDS: Final = 600.0
BESIDE_SECONDS: Final = 3600.0
"""What runs beside the checkpoints enlarges or describes whole pictures in one call, for minutes on a CPU."""
PULSE_SECONDS: Final = 1.0
_MOST_KEYS: Final = 10_000
_SHAPED = EncodeText | Predict | Encode | Decode | Preview


class Announced:
    """Passes calls on to a device, and announces those that the front must be patient with.

    Networks are loaded by the first call that needs them, and the first batch of a shape has kernels chosen
    or built for it. An accelerator that was lost answers every later call with the same error, until the
    process is a new one: the jobs are run again by the next.

    Args:
        device: the real one.
        emit: told before a long call, and meanwhile by another thread.
    """

    def __init__(self, device: Device, emit: Callable[[LongCall | Pulse], None]) -> None:
        self._device = device
        self._emit = emit
        self._in_long_call = threading.Event()
        self._pulses: threading.Thread | None = None
        self._seen: set[Key] = set()
        self._weights: str | None = None

    @property
    def name(self) -> str:
        """The device's."""
        return self._device.name

    @property
    def precision(self) -> str:
        """The device's."""
        return self._device.precision

    def run(self, calls: Sequence[DeviceCall]) -> list[Any]:
        """As the device does.

        Raises:
            SystemExit: the device is lost.
        """
        self._announce(calls[0])
        try:
            return self._device.run(calls)
        except torch.AcceleratorError as error:
            log.critical("The device is lost (%s); a new process is needed.", error)
            raise SystemExit(EXIT_LOST) from error
        finally:
            self._in_long_call.clear()

    def settle(self) -> None:
        """As the device does."""
        self._device.settle()

    def unload(self) -> None:
        """As the device does; what is needed next is loaded again."""
        self._tell("unload", LOAD_SECONDS)
        self._seen.clear()
        try:
            self._device.unload()
        finally:
            self._in_long_call.clear()

    def keep(self, keeping: Keeping) -> None:
        """As the device does; what had to go is loaded again."""
        self._seen.clear()
        self._device.keep(keeping)

    def _announce(self, call: DeviceCall) -> None:
        if not isinstance(call, UseModel | _SHAPED):
            self._tell("beside", BESIDE_SECONDS)
            return
        key, is_other = call.batch_key(), call.model.weights != self._weights
        self._weights = call.model.weights
        if is_other or isinstance(call, UseModel):
            self._tell("load", LOAD_SECONDS)
        elif key not in self._seen:
            if len(self._seen) >= _MOST_KEYS:
                self._seen.clear()
            self._seen.add(key)
            self._tell("first", FIRST_SECONDS)

    def _tell(self, kind: str, seconds: float) -> None:
        self._emit(LongCall(kind, seconds))
        self._in_long_call.set()
        if self._pulses is None:
            self._pulses = threading.Thread(target=self._pulse, daemon=True, name="engine-pulse")
            self._pulses.start()

    def _pulse(self) -> None:
        while True:
            self._in_long_call.wait()
            time.sleep(PULSE_SECONDS)
            if self._in_long_call.is_set():
                self._emit(Pulse())
