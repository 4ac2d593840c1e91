"""Rows that differ in their texts alone are computed once up to the first text, to the same result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bundle_calls import random
from plain_unets import network
from tiny_checkpoints import TEXT_WIDTH, Write
from torch import Tensor
from torch.nn import functional

from sdserver.bundle.alike import Alike, alike
from sdserver.bundle.bundle import Bundle
from sdserver.bundle.kept_text import Text
from sdserver.bundle.lean import Lean
from sdserver.calls import Conditioning, Predict
from sdserver.jobs.model import Family, Model

MIXED = (0, 1, 0, 2, 1)
"""Rows of three pictures, one of them without guidance, not side by side."""

Counted = list[int]


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Rows of each call of an attention to itself, of 64 tokens and more."""
    rows, attend = Counted(), functional.scaled_dot_product_attention

    def counted(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        if query.shape == key.shape and query.shape[2] >= 64:
            rows.append(len(query))
        return attend(query, key, value, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    return rows


def given(kinds: tuple[int, ...], times: tuple[float, ...]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Latents and timesteps by kind, and texts of different length."""
    x = random(max(kinds) + 1, 4, 8, 10)[list(kinds)].to(memory_format=torch.channels_last)
    texts = [random(77 * (1 + (row > 2)), TEXT_WIDTH, seed=row) for row in range(len(kinds))]
    return x, torch.tensor([times[kind] for kind in kinds]), texts


def test_which_rows_are_alike() -> None:
    found = alike("abacb")
    assert found is not None
    assert (found.firsts.tolist(), found.kinds.tolist()) == ([0, 1, 3], list(MIXED))
    assert alike("abc") is None
    assert alike("") is None


def test_planes_and_tokens_are_dealt_out() -> None:
    found = Alike(torch.tensor([0, 1, 3]), torch.tensor(MIXED))
    x = random(5, 6, 3, 4)[list(MIXED)].to(memory_format=torch.channels_last)
    once = found.once(x)
    assert torch.equal(once, x[[0, 1, 3]])
    planes = found.planes(once)
    assert torch.equal(planes, x)
    assert planes.is_contiguous(memory_format=torch.channels_last)
    tokens = random(5, 7, 6)[list(MIXED)]
    assert torch.equal(found.tokens(tokens[[0, 1, 3]].reshape(-1, 6)), tokens.reshape(-1, 6))


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("times", [(500.0, 500.0, 500.0), (1.5, 500.0, 999.0)])
def test_the_result_is_the_same(family: Family, times: tuple[float, float, float], attended: Counted) -> None:
    run = Lean(network(family))
    x, timesteps, texts = given(MIXED, times)
    before = x.clone()
    with torch.no_grad():
        expected = run(x, timesteps, Text(texts), None)
        assert attended == [5] * len(attended)
        apart = len(attended)
        got = run(x, timesteps, Text(texts), None, alike(MIXED))
    assert attended[apart:] == [3] + [5] * (apart - 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert torch.equal(x, before)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_what_is_hooked_to_the_first_attention_sees_all_rows() -> None:
    unet = network("sd1")
    run, seen = Lean(unet), []
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    x, timesteps, texts = given(MIXED, (1.0, 2.0, 3.0))
    with torch.no_grad():
        block.attn1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        expected = run(x, timesteps, Text(texts), None)
        got = run(x, timesteps, Text(texts), None, alike(MIXED))
    assert seen == [5, 5]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_rows_with_vectors_are_never_alike() -> None:
    """SDXL's vector, which is of the text, counts from the first block on."""
    run = Lean(network("sdxl"))
    size = run._unet.config.projection_class_embeddings_input_dim
    x = random(1, 4, 8, 8)[[0, 0]].to(memory_format=torch.channels_last)
    vector, text = random(2, size), Text(list(random(2, 77, run._unet.config.cross_attention_dim)))
    with torch.no_grad():
        expected = run(x, torch.tensor([5.0, 5.0]), text, vector)
        got = run(x, torch.tensor([5.0, 5.0]), text, vector, alike("aa"))
    assert torch.equal(got, expected)


Rows = Callable[[Model], list[Predict]]


def one_picture(model: Model) -> list[Predict]:
    x = random(4, 8, 8)
    return [Predict(model, x, 500.0, Conditioning(random(77, TEXT_WIDTH, seed=row))) for row in (1, 2)]


def two_timesteps(model: Model) -> list[Predict]:
    first, second = one_picture(model)
    return [first, Predict(model, second.x, 501.0, second.conditioning)]


def two_latents(model: Model) -> list[Predict]:
    first, second = one_picture(model)
    return [first, Predict(model, second.x.clone(), 500.0, second.conditioning)]


@pytest.mark.parametrize(
    ("rows", "is_steady", "first"),
    [(one_picture, False, 1), (one_picture, True, 2), (two_timesteps, False, 2), (two_latents, False, 2)],
)
def test_the_rows_of_one_picture(
    checkpoint: Write, attended: Counted, rows: Rows, is_steady: bool, first: int
) -> None:
    """One latent at one timestep: known by the tensor itself. Not where the last bits must stay the same."""
    path, _ = checkpoint("sd1")
    bundle = Bundle("cpu", "fp32", is_steady=is_steady)
    calls = rows(Model(str(path)))
    with torch.inference_mode():
        alone = [bundle.run([call])[0] for call in calls]
        del attended[:]
        together = bundle.run(calls)
    assert attended[0] == first
    assert attended[1:] == [2] * (len(attended) - 1)
    for got, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
