"""The lean pass of text encoders against transformers' own."""

import copy
from typing import Any

import pytest
import torch
from tiny_checkpoints import make
from torch import Tensor

from sdserver.bundle.lean_text import LeanText, is_plain
from sdserver.jobs.model import Family

PLACES = [("sd1", 0), ("sd2", 0), ("sdxl", 0), ("sdxl", 1)]


def encoder(family: Family, index: int) -> Any:
    """Of the test's own, for calling transformers' leaves hooks."""
    model = make(family).text[index]
    return copy.deepcopy(model).eval().requires_grad_(False)


def texts(model: Any) -> Tensor:
    """Two, which end at different places."""
    trunk = getattr(model, "text_model", model)
    end = trunk.config.vocab_size - 1 if trunk.eos_token_id == 2 else trunk.eos_token_id
    tokens = torch.randint(3, 400, (2, 77), generator=torch.Generator().manual_seed(1))
    tokens[0, 20:], tokens[1, 50:] = end, end
    return tokens


def nothing(_: Tensor) -> None:
    """No textual inversion."""


@pytest.mark.parametrize(("family", "index"), PLACES)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_it_is_the_same_network(family: Family, index: int, layer: int) -> None:
    model = encoder(family, index)
    assert is_plain(model)
    tokens = texts(model)
    with torch.no_grad():
        hidden, pooled = LeanText(model)(tokens, layer, nothing)
        expected = model(tokens, output_hidden_states=True)
    torch.testing.assert_close(hidden, expected.hidden_states[-layer], rtol=0, atol=1e-6)
    if hasattr(model, "text_model"):
        torch.testing.assert_close(pooled, expected.text_embeds, rtol=0, atol=1e-6)
    else:
        assert pooled is None


def test_vectors_may_be_replaced() -> None:
    model = encoder("sd1", 0)
    tokens, run = texts(model), LeanText(model)
    other = tokens.clone()
    other[0, 3] = 7
    weight = model.embeddings.token_embedding.weight
    before = weight.clone()
    with torch.no_grad():

        def stand_in(vectors: Tensor) -> None:
            vectors[0, 3] = weight[7]

        got, _ = run(tokens, 1, stand_in)
        expected, _ = run(other, 1, nothing)
        plain, _ = run(tokens, 1, nothing)
    assert torch.equal(got, expected)
    assert not torch.equal(got, plain)
    assert torch.equal(weight, before)


def test_who_watches_is_told() -> None:
    model = encoder("sd1", 0)
    run = LeanText(model)
    assert not run.is_watched
    hook = model.register_forward_pre_hook(lambda *_: None)
    assert run.is_watched
    hook.remove()
    assert not run.is_watched


def test_models_of_other_kinds_are_told() -> None:
    model = encoder("sd1", 0)
    model.config.hidden_act = "relu"
    assert not is_plain(model)
    assert not is_plain(torch.nn.Identity())
