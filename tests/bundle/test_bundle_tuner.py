"""What is done to a network when it is loaded."""

import logging
from pathlib import Path

import pytest
import torch
from bundle_calls import random, use
from tiny_checkpoints import Write

from sdserver.bundle import tuner
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.compiled.compiled import Compiled
from sdserver.bundle.compiled.workshop import CannotCompile
from sdserver.bundle.device import resolve
from sdserver.bundle.threads import choose
from sdserver.bundle.tuner import Tuner, Tuning
from sdserver.bundle.unet import Network
from sdserver.calls import Conditioning, Predict
from sdserver.jobs.model import Model


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled."""

    def refuse(*_: object) -> None:
        raise CannotCompile("not here")

    monkeypatch.setattr("sdserver.bundle.compiled.workshop.make_beside", refuse)


def network_of(bundle: Bundle, path: Path) -> Network:
    use(bundle, path)
    return bundle._use(Model(str(path))).network


def test_nothing_is_done_unasked(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "choose", lambda *_: pytest.fail("measured"))
    path, _ = checkpoint("sd1")
    assert network_of(Bundle("cpu"), path)._faster is None


@pytest.mark.parametrize("limit", [0, tuner.SMALL_NETWORK])
def test_threads_are_measured_once_and_told(
    checkpoint: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: int
) -> None:
    """By the network itself where it is small, else by what stands for it."""
    caplog.set_level(logging.INFO)
    used: list[int] = []
    monkeypatch.setattr(tuner, "SMALL_NETWORK", limit)
    monkeypatch.setattr(tuner, "cores", lambda: 2)
    monkeypatch.setattr(tuner, "choose", lambda works, most: choose(works, most, use=used.append))
    bundle = Bundle("cpu", max_cached=2)
    bundle.tune(Tuning(threads=True))
    for name in ("one", "two"):
        path, _ = checkpoint("sd1", name=name)
        assert use(bundle, path).threads == torch.get_num_threads()
    assert used[:2] == [1, 2]
    assert len(used) == 3, "the second checkpoint is not measured"
    assert caplog.text.count("Computing with") == 1


def test_a_compiled_network_stands_before_the_real_one(
    checkpoint: Write, tmp_path: Path, refused: None
) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    bundle.tune(Tuning(compiled=tmp_path / "compiled"))
    assert isinstance(network_of(bundle, path)._faster, Compiled)


def test_eager_answers_are_those_without_it(checkpoint: Write, tmp_path: Path, refused: None) -> None:
    path, _ = checkpoint("sd1")
    plain, tuned = Bundle("cpu"), Bundle("cpu")
    tuned.tune(Tuning(compiled=tmp_path / "compiled"))
    rows = [Predict(Model(str(path)), random(4, 8, 8), 500.0, Conditioning(random(77, 32)))] * 2
    for one, other in zip(plain.run(rows), tuned.run(rows), strict=True):
        assert isinstance(one, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other)


def test_other_devices_are_told_that_they_cannot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    placement = resolve("cpu", "fp32", "sdpa")
    object.__setattr__(placement, "device", torch.device("mps"))
    assert Tuner(placement, Tuning(compiled=tmp_path / "compiled"))._workshop is None
    assert "--compile does nothing on mps" in caplog.text
