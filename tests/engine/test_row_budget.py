"""How many rows a batch has, on the keys that real calls have."""

import pytest
import torch

from sdserver.calls import Conditioning, Decode, Predict
from sdserver.engine.batcher import Batcher, shared_key
from sdserver.engine.fixed import exact_key
from sdserver.engine.process import DECODE_ROWS, row_budget
from sdserver.jobs.model import Adapter, Model

MODEL = Model("m", adapters=(Adapter("lora", "x", 1.0, 1.0),))


def row(side=8, tokens=77):
    return Predict(MODEL, torch.zeros(4, side, side), 500.0, Conditioning(torch.zeros(tokens, 8)))


@pytest.mark.parametrize(("side", "rows"), [(8, 16), (64, 16), (128, 4), (256, 2)])
def test_larger_latents_have_fewer_rows(side: int, rows: int) -> None:
    assert row_budget(16)(row(side).batch_key()) == rows


def test_decoding_never_holds_up_many_steps() -> None:
    assert row_budget(16)(Decode(MODEL, torch.zeros(4, 8, 8)).batch_key()) == DECODE_ROWS


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
