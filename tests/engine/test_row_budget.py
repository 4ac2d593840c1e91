"""How many rows a batch has, on the keys that real calls have."""

from dataclasses import replace

import pytest
import torch
from toy import ToyDevice

from sdserver.calls import Conditioning, Decode, FindFaces, ParseFace, Predict, RestoreFace
from sdserver.engine.batcher import Batcher, shared_key
from sdserver.engine.budget import DECODE_ROWS, FIXED_ROWS, bounded, row_budget
from sdserver.engine.config import EngineConfig
from sdserver.engine.fixed import exact_key
from sdserver.engine.process import batching
from sdserver.jobs.events import Picture
from sdserver.jobs.job import FaceRestorer
from sdserver.jobs.model import Adapter, Model

CONFIG = EngineConfig("cpu", "fp32", "sdpa", 1, 16, 16, False, False, 1, "warning")
MODEL = Model("m", adapters=(Adapter("lora", "x", 1.0, 1.0),))


def row(side=8, tokens=77):
    return Predict(MODEL, torch.zeros(4, side, side), 500.0, Conditioning(torch.zeros(tokens, 8)))


@pytest.mark.parametrize(("side", "rows"), [(8, 16), (64, 16), (128, 4), (256, 2)])
def test_larger_latents_have_fewer_rows(side: int, rows: int) -> None:
    assert row_budget(16)(row(side).batch_key()) == rows


def test_decoding_never_holds_up_many_steps() -> None:
    assert row_budget(16)(Decode(MODEL, torch.zeros(4, 8, 8)).batch_key()) == DECODE_ROWS


def test_a_crowd_never_holds_up_many_steps() -> None:
    restorer, face = FaceRestorer("GFPGAN", "g", "d", "p"), Picture(1, 1, bytes(3))
    for call in (FindFaces(restorer, face), RestoreFace(restorer, face), ParseFace(restorer, face)):
        assert row_budget(16)(call.batch_key()) == DECODE_ROWS


@pytest.mark.parametrize(
    ("key_of", "sizes"), [(shared_key, [4, 1]), (exact_key, [2, 1, 1, 1])], ids=["shared", "exact"]
)
def test_rows_share_batches_by_their_contexts_lengths(key_of, sizes):  # type: ignore[no-untyped-def]
    batcher = Batcher(row_budget(16), key_of)
    batcher.add("a", [row(tokens=77), row(tokens=154), row(tokens=77 * 5), row(tokens=231), row(tokens=77)])
    assert [len(batcher.next_batch()) for _ in sizes] == sizes
    assert not len(batcher)


def test_shapes_do_not_share_batches() -> None:
    assert row(8).batch_key() != row(16).batch_key()


@pytest.mark.parametrize(("fits", "rows"), [(None, 16), (40, 16), (5, 5), (0, 1)])
def test_memory_bounds_the_rows_where_it_is_known(fits: int | None, rows: int) -> None:
    key = row().batch_key()
    asked: list[object] = []

    def fitting(one: object) -> int | None:
        asked.append(one)
        return fits

    assert bounded(row_budget(16), fitting)(key) == rows
    assert asked == [key]


@pytest.mark.parametrize(("most", "rows"), [(64, FIXED_ROWS), (6, 6)])
def test_deterministic_mode_fills_batches_of_a_stated_size(most: int, rows: int) -> None:
    device, batcher = batching(ToyDevice(), replace(CONFIG, deterministic=True, max_batch_rows=most))
    assert batcher.rows(row().batch_key()) == rows
    real = ToyDevice()
    device, _ = batching(real, replace(CONFIG, deterministic=True, max_batch_rows=most))
    assert len(device.run([row()])) == 1
    assert real.batches == [("Predict", rows)]


def test_otherwise_a_batch_begins_with_one_picture_and_memory_has_its_say() -> None:
    device = ToyDevice()
    same, batcher = batching(device, replace(CONFIG, max_batch_rows=64))
    assert same is device
    assert batcher.rows(row().batch_key()) == 2
    _, batcher = batching(device, replace(CONFIG, max_batch_rows=64), lambda _: 1)
    assert batcher.rows(row().batch_key()) == 1
