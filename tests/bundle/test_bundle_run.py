"""The door: what stays loaded, what a batch's failures do to its rows, settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import assert_close, decode, encode, predict, random, text_call, use
from tiny_checkpoints import TEXT_WIDTH, Write
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.load import Frame
from sdserver.bundle.unet import Network
from sdserver.bundle.vae import Autoencoder
from sdserver.calls import Conditioning, Predict, UseModel
from sdserver.errors import EngineFailure, OutOfMemory, SettingsError, UnreadableCheckpoint
from sdserver.jobs.model import Model

FULL = torch.OutOfMemoryError("full")


@pytest.fixture
def fills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often a checkpoint's data is read."""
    fill, filled = Frame.fill, list[int]()

    def counted(*arguments: object) -> object:
        filled.append(1)
        return fill(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Frame, "fill", counted)
    return filled


def test_a_checkpoint_is_loaded_once(checkpoint: Write, fills: list[int]) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    facts = use(bundle, path)
    assert bundle.run([UseModel(Model(str(path)))] * 3) == [facts] * 3
    assert (facts.model.checkpoint, facts.device, len(facts.alphas)) == (str(path), "cpu", 1000)
    assert len(fills) == 1


@pytest.mark.parametrize(("order", "max_cached", "loads"), [("aba", 0, 3), ("abacb", 2, 4)])
def test_least_recently_used_makes_room(
    checkpoint: Write, fills: list[int], order: str, max_cached: int, loads: int
) -> None:
    paths = {name: checkpoint("sd1", name=name)[0] for name in set(order)}
    bundle = Bundle("cpu", max_cached=max_cached)
    for name in order:
        use(bundle, paths[name])
    assert len(fills) == loads


def test_a_checkpoint_that_cannot_be_used_drives_nobody_out(
    checkpoint: Write, fills: list[int], tmp_path: Path
) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    use(bundle, path)
    with pytest.raises(UnreadableCheckpoint):
        use(bundle, tmp_path / "none.safetensors")
    use(bundle, path)
    assert len(fills) == 1


def test_memory_full_while_loading(checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = checkpoint("sd1")
    with monkeypatch.context() as patch:
        patch.setattr(Frame, "fill", raising(FULL))
        with pytest.raises(OutOfMemory, match="load the checkpoint"):
            use(Bundle("cpu"), path)
    with monkeypatch.context() as patch:
        patch.setattr(Frame, "fill", raising(RuntimeError("device broken")))
        with pytest.raises(RuntimeError, match="broken"):
            use(Bundle("cpu"), path)


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def rows(count: int) -> tuple[Tensor, Tensor, list[Conditioning]]:
    contexts = random(count, 77, TEXT_WIDTH, seed=1)
    return (
        random(count, 4, 8, 8),
        torch.linspace(0, 999, count),
        [Conditioning(context) for context in contexts],
    )


@pytest.mark.parametrize("error", [FULL, RuntimeError("DefaultCPUAllocator: can't allocate memory: x")])
def test_a_batch_too_large_for_the_memory_is_halved(
    checkpoint: Write, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    whole = predict(bundle, path, *rows(5))
    run, sizes = Network.predict, list[int]()

    def small_only(network: Network, x: Tensor, *others: Any) -> Tensor:
        sizes.append(len(x))
        if len(x) > 2:
            raise error
        return run(network, x, *others)

    monkeypatch.setattr(Network, "predict", small_only)
    assert_close(predict(bundle, path, *rows(5)), whole)
    assert sizes == [5, 2, 3, 1, 2]


def test_a_row_too_large_for_the_memory_fails_alone(
    checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    x, t, conditionings = rows(2)
    calls = [Predict(Model(str(path)), *row) for row in zip(x, t.tolist(), conditionings, strict=True)]
    with monkeypatch.context() as patch:
        patch.setattr(Network, "predict", raising(FULL))
        results = bundle.run(calls)
    assert [type(result) for result in results] == [OutOfMemory, OutOfMemory]
    with monkeypatch.context() as patch:
        patch.setattr(Autoencoder, "decode", raising(RuntimeError("device broken")))
        with pytest.raises(RuntimeError, match="broken"):
            decode(bundle, path, x)
    assert predict(bundle, path, x, t, conditionings).isfinite().all()


def test_rows_that_do_not_fit_fail_alone(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    x, t, conditionings = rows(4)
    expected = predict(bundle, path, x[:2], t[:2], conditionings[:2])
    odd = [Conditioning(random(77, 9)), Conditioning(random(77, TEXT_WIDTH), random(7))]
    mixed = [conditionings[0], odd[0], conditionings[1], odd[1]]
    times = [t[0].item(), 0.0, t[1].item(), 0.0]
    calls = [Predict(Model(str(path)), *row) for row in zip(x[[0, 2, 1, 3]], times, mixed, strict=True)]
    first, bad, second, worse = bundle.run(calls)
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    assert_close(torch.stack([first, second]), expected)
    assert [type(bad), type(worse)] == [EngineFailure, EngineFailure]
    (channels,) = bundle.run([Predict(Model(str(path)), random(9, 8, 8), 0.0, conditionings[0])])
    assert isinstance(channels, EngineFailure)


def test_results_can_be_changed_in_place_and_need_no_gradient(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu")
    predicted = predict(bundle, path, *rows(1))
    predicted += 1
    (conditioning,) = encode(bundle, [text_call(path, "cat")])
    assert not any((predicted.requires_grad, conditioning.context.requires_grad))


def test_the_engines_inference_mode_changes_nothing(checkpoint: Write) -> None:
    path, _ = checkpoint("sd1")
    expected = predict(Bundle("cpu"), path, *rows(2))
    with torch.inference_mode():
        got = predict(Bundle("cpu"), path, *rows(2))
    assert torch.equal(got, expected)


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.02), ("bf16", 0.15)])
def test_half_precision_is_near(checkpoint: Write, precision: str, limit: float) -> None:
    path, _ = checkpoint("sd1")
    half = Bundle("cpu", precision)  # type: ignore[arg-type]
    got, expected = predict(half, path, *rows(2)), predict(Bundle("cpu"), path, *rows(2))
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() < limit
    assert half.precision == {"fp16": "float16", "bf16": "bfloat16"}[precision]


def test_the_device_as_people_read_it() -> None:
    bundle = Bundle("cpu")
    assert (bundle.name, bundle.device_name(), bundle.precision) == ("cpu", "cpu", "float32")
    assert bundle.memory_facts() == (None,) * 12


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "xpu", "mps"])
def test_devices_that_are_not_there(device: str) -> None:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None and accelerator.type == device:
        pytest.skip(f"{device} is there")
    with pytest.raises(SettingsError, match=f"device={device}"):
        Bundle(device)


def test_xformers_needs_cuda() -> None:
    with pytest.raises(SettingsError, match="attention=sdpa"):
        Bundle("cpu", attention="xformers")
