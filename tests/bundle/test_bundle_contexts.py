"""Rows whose contexts differ in length, in one batch: each is predicted as it is alone."""

from typing import Any

import pytest
import torch
from bundle_calls import assert_close, random
from tiny_checkpoints import Write
from torch import Tensor

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.contexts import joined, outgrow
from sdserver.bundle.faster import Evaluate
from sdserver.calls import SHARED_LENGTHS, Conditioning, Predict
from sdserver.jobs.model import Model


def test_contexts_are_repeated_to_a_common_length() -> None:
    first, second = torch.arange(2.0).reshape(2, 1), torch.arange(3.0).reshape(3, 1)
    assert joined([first, second])[..., 0].tolist() == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert joined([first, first]).shape == (2, 2, 1)


def test_contexts_that_must_be_longer_than_the_longest() -> None:
    one, two, three = (torch.zeros(length, 1) for length in (1, 2, 3))
    assert outgrow([two, three])
    assert outgrow([three, one, two])
    assert not any(outgrow(contexts) for contexts in ([two], [one, two, one], [three, three]))
    assert not outgrow(torch.zeros(2, 3, 1))


@pytest.mark.parametrize("lengths", [(77, 154, 77), (231, 77, 154), (77, 77)])
def test_a_faster_way_is_not_given_texts_that_outgrow_it(checkpoint: Write, lengths: tuple[int, ...]) -> None:
    path, original = checkpoint("sd1")
    bundle, model, asked = Bundle("cpu"), Model(str(path)), []

    class Way:
        def predict(self, evaluate: Evaluate, *given: Any) -> Tensor:
            asked.append(given[2]().shape[1])
            return evaluate()

        def release(self) -> None:
            """Holds nothing."""

    bundle._use(model).network.hasten(Way())
    width = original.unet.config.cross_attention_dim  # type: ignore[union-attr]
    rows = [
        Predict(model, random(4, 8, 8, seed=k), 500.0, Conditioning(random(tokens, width, seed=k)))
        for k, tokens in enumerate(lengths)
    ]
    bundle.run(rows)
    longest = max(lengths)
    assert asked == ([] if 154 in lengths and 231 in lengths else [longest])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_lengths_that_share_a_batch(checkpoint: Write, family: str) -> None:
    path, original = checkpoint(family)  # type: ignore[arg-type]
    bundle, model = Bundle("cpu"), Model(str(path))
    width = original.unet.config.cross_attention_dim  # type: ignore[union-attr]
    vector = None
    if family == "sdxl":
        vector = random(original.unet.config.projection_class_embeddings_input_dim, seed=9)  # type: ignore[union-attr]
    rows = [
        Predict(
            model, random(4, 8, 8, seed=k), 500.0, Conditioning(random(tokens, width, seed=k + 50), vector)
        )
        for k, tokens in enumerate(sorted(SHARED_LENGTHS))
    ]
    assert len({row.batch_key() for row in rows}) == 1
    for together, row in zip(bundle.run(rows), rows, strict=True):
        (alone,) = bundle.run([row])
        assert_close(together, alone)
