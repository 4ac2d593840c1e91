"""What is said before calls that may take long, and what becomes of a device that is lost."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from patience import wait_until
from toy import JOB, ToyDevice

from sdserver.calls import DeviceCall, Encode, EncodeText, Preview, Upscale, UseModel
from sdserver.engine import announced
from sdserver.engine.announced import BESIDE_SECONDS, FIRST_SECONDS, LOAD_SECONDS, Announced
from sdserver.engine.messages import EXIT_LOST, LongCall, Pulse
from sdserver.jobs.events import Picture
from sdserver.jobs.keeping import Keeping
from sdserver.jobs.model import Model

ONE, OTHER = Model("/models/one.safetensors"), Model("/models/other.safetensors")
LOAD, FIRST = LongCall("load", LOAD_SECONDS), LongCall("first", FIRST_SECONDS)


def text(model: Model) -> DeviceCall:
    return EncodeText(model, "a", JOB.prompt, JOB.size, False)


def pixels(side: int) -> DeviceCall:
    return Encode(ONE, torch.zeros(3, side, side))


class Rig:
    def __init__(self, device: Any = None) -> None:
        self.said: list[object] = []
        self.device = device or ToyDevice()
        self.announced = Announced(self.device, self.said.append)

    def said_of(self, *calls: DeviceCall) -> list[object]:
        """What was said, pulses left out."""
        self.said.clear()
        self.announced.run(calls)
        return [message for message in self.said if message != Pulse()]


def test_loading_and_the_first_batch_of_a_shape_are_announced() -> None:
    rig = Rig()
    assert rig.said_of(UseModel(ONE)) == [LOAD]
    assert rig.said_of(UseModel(ONE)) == [LOAD], "adapters may have changed"
    assert rig.said_of(text(ONE), text(ONE)) == [FIRST]
    assert rig.said_of(text(ONE)) == []
    assert rig.said_of(pixels(64)) == [FIRST]
    assert rig.said_of(pixels(64), pixels(64)) == []
    assert rig.said_of(pixels(128)) == [FIRST]
    assert rig.said_of(text(OTHER)) == [LOAD], "the call brings the other checkpoint"
    assert rig.said_of(pixels(64)) == [LOAD], "and this one brings it back"
    look = Preview(ONE, torch.zeros(4, 8, 8), "cheap")
    assert [rig.said_of(look), rig.said_of(look)] == [[FIRST], []]


def test_what_runs_beside_the_checkpoints_is_announced_each_time() -> None:
    rig = Rig()
    call = Upscale("/net.pth", Picture(1, 1, b"abc"))
    assert [rig.said_of(call), rig.said_of(call)] == [[LongCall("beside", BESIDE_SECONDS)]] * 2


def test_what_was_unloaded_is_announced_again() -> None:
    rig = Rig()
    rig.said_of(UseModel(ONE), UseModel(ONE))
    rig.said_of(text(ONE))
    rig.announced.keep(Keeping())
    assert rig.said_of(text(ONE)) == [FIRST]
    rig.announced.unload()
    assert LongCall("unload", LOAD_SECONDS) in rig.said
    assert rig.said_of(text(ONE)) == [FIRST]


def test_it_is_the_device() -> None:
    rig = Rig()
    calls: Sequence[DeviceCall] = [replace(pixels(64), model=ONE)]  # type: ignore[type-var]
    (expected,), (found,) = ToyDevice().run(calls), rig.announced.run(calls)
    assert torch.equal(expected, found)
    assert (rig.announced.name, rig.announced.precision) == (ToyDevice.name, ToyDevice.precision)
    rig.announced.settle()
    rig.announced.keep(Keeping(1, 2))
    rig.announced.unload()
    assert (rig.device.keeping, rig.device.unloads) == (Keeping(1, 2), 1)


def test_the_process_lives_while_a_long_call_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(ToyDevice):  # type: ignore[misc]  # the toy has no types
        def run(self, calls: Sequence[DeviceCall]) -> Any:
            if any(isinstance(said, LongCall) for said in rig.said):
                wait_until(lambda: rig.said.count(Pulse()) >= 3)
            else:
                time.sleep(0.5)
            return super().run(calls)

    monkeypatch.setattr(announced, "PULSE_SECONDS", 0.05)
    rig = Rig(Slow())
    rig.announced.run([text(ONE)])
    assert rig.said.count(Pulse()) >= 3
    rig.announced.run([text(ONE)])
    time.sleep(0.1)
    rig.said.clear()
    rig.announced.run([text(ONE)])
    assert rig.said == [], "a usual call shows by its end that the device works"


def test_a_lost_device_ends_the_process() -> None:
    class Lost(ToyDevice):  # type: ignore[misc]
        def run(self, calls: Sequence[DeviceCall]) -> Any:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    with pytest.raises(SystemExit) as end:
        Rig(Lost()).announced.run([text(ONE)])
    assert end.value.code == EXIT_LOST


def test_another_fault_is_passed_on() -> None:
    class Faulty(ToyDevice):  # type: ignore[misc]
        def run(self, calls: Sequence[DeviceCall]) -> Any:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes"):
        Rig(Faulty()).announced.run([text(ONE)])
