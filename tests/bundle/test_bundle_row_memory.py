"""Rows by the device's free memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdserver.bundle.row_memory import AGAIN, FIRST_RUNS, FRESH, ROW_BYTES, RowMemory, rows_that_fit
from sdserver.calls import Conditioning, Decode, Encode, EncodeText, Predict
from sdserver.jobs.job import Prompt, Size
from sdserver.jobs.model import Model

MIB = 1 << 20
MODEL = Model("m")


class Told:
    """Memory as a test says."""

    def __init__(self, free: int | None) -> None:
        self.left = free
        self.now = 100
        self.peak = 0

    def free(self) -> int | None:
        return self.left

    def begin(self) -> int:
        return self.now

    def most(self) -> int:
        return self.peak


def predict(side: int, model: Model = MODEL) -> Predict:
    return Predict(model, torch.zeros(4, side, side), 1.0, Conditioning(torch.zeros(77, 8)))


@given(free=st.integers(0, 1 << 40), row=st.integers(1, 1 << 36))
def test_what_fits_is_within_the_free_memory_and_at_least_one(free: int, row: int) -> None:
    rows = rows_that_fit(free, row)
    assert rows >= 1
    assert rows == 1 or rows * row <= free
    assert rows_that_fit(2 * free, row) >= rows


def test_before_the_first_batch_size_and_format_decide() -> None:
    row = 64 * 64 * ROW_BYTES
    half, full = RowMemory(Told(10 * row), 2), RowMemory(Told(10 * row), 4)
    key = predict(64).batch_key()
    assert half.fitting(key) == 9
    assert full.fitting(key) == 4
    assert half.fitting(predict(128).batch_key()) == 2


def test_what_a_batch_took_decides_of_its_shape_alone() -> None:
    memory, gauge = RowMemory(told := Told(100 * MIB), 2), told
    key, other = predict(64).batch_key(), predict(64, Model("other")).batch_key()
    gauge.peak = 100 + 40 * MIB
    guessed = memory.fitting(other)
    with memory.measured(key, 4):
        pass
    assert memory.fitting(key) == 9
    assert memory.fitting(other) == guessed


def test_next_to_nothing_is_not_believed() -> None:
    gauge = Told(64 * 64 * ROW_BYTES)
    memory = RowMemory(gauge, 2)
    key = predict(64).batch_key()
    gauge.peak = gauge.now
    with memory.measured(key, 4):
        pass
    assert memory.fitting(key) == 14


def test_a_batch_that_fails_tells_nothing() -> None:
    gauge = Told(100 * MIB)
    memory = RowMemory(gauge, 2)
    key = predict(8).batch_key()
    before, gauge.peak = memory.fitting(key), 1 << 40
    with pytest.raises(torch.OutOfMemoryError), memory.measured(key, 1):
        raise torch.OutOfMemoryError
    assert memory.fitting(key) == before


def test_decoding_and_encoding_are_bounded_and_texts_are_not() -> None:
    memory = RowMemory(Told(1 << 30), 2)
    decoded = memory.fitting(Decode(MODEL, torch.zeros(4, 64, 64)).batch_key())
    assert decoded == memory.fitting(Encode(MODEL, torch.zeros(3, 512, 512)).batch_key())
    assert decoded == 1
    text = EncodeText(MODEL, "a", Prompt("a", "", 1, "Original", 20), Size(64, 64), False, ())
    assert memory.fitting(text.batch_key()) is None


def test_nobody_knows_on_a_cpu_or_before_the_device_tells() -> None:
    key = predict(8).batch_key()
    nothing = RowMemory(None, 4)
    with nothing.measured(key, 1):
        pass
    assert nothing.fitting(key) is None
    assert RowMemory(Told(None), 4).fitting(key) is None


def test_the_device_is_asked_now_and_then() -> None:
    gauge, now = Told(1 << 30), [0.0]
    memory = RowMemory(gauge, 2, lambda: now[0])
    key = predict(64).batch_key()
    first = memory.fitting(key)
    gauge.left = 0
    assert memory.fitting(key) == first
    now[0] = FRESH
    assert memory.fitting(key) == 1


def test_after_the_first_batches_few_are_measured() -> None:
    gauge = Told(1 << 30)
    memory = RowMemory(gauge, 2)
    measured: list[int] = []
    for run in range(1, 2 * AGAIN + 1):
        gauge.peak = gauge.now + run * 64 * MIB
        before = dict(memory._bytes)
        with memory.measured(predict(8).batch_key(), 1):
            pass
        if memory._bytes != before:
            measured.append(run)
    assert measured == [*range(1, FIRST_RUNS + 1), AGAIN, 2 * AGAIN]
