"""Keys and values of texts, kept from call to call."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bundle_calls import random
from torch import Tensor, nn

from sdserver.bundle import kept_text
from sdserver.bundle.contexts import joined
from sdserver.bundle.kept_text import LANES, KeptTexts, KnownText, Text

WIDTH, CHANNELS, HEADS = 6, 8, 2
CPU = torch.device("cpu")


def layer(seed: int) -> Any:
    keys, values = (nn.Linear(WIDTH, CHANNELS, bias=False).requires_grad_(False) for _ in range(2))
    keys.weight.copy_(random(CHANNELS, WIDTH, seed=seed))
    values.weight.copy_(random(CHANNELS, WIDTH, seed=seed + 50))
    return SimpleNamespace(keys=keys, values=values, heads=HEADS)


LAYERS = [layer(1), layer(2)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of what is projected, in order; two for each pair of keys and values."""
    found: list[int] = []
    original = kept_text.linear

    def linear(module: Any, x: Tensor) -> Tensor:
        found.append(len(x))
        return original(module, x)

    monkeypatch.setattr(kept_text, "linear", linear)
    return found


def asked(kept: KeptTexts, contexts: Sequence[Tensor], *, as_factors: bool = False) -> list[Any]:
    text = kept.text(contexts, CPU, torch.float32)
    return [text.projected(one, as_factors=as_factors) for one in LAYERS]


def keys_of(kept: KeptTexts, context: Tensor) -> Tensor:
    """In the second layer."""
    key: Tensor = asked(kept, [context])[1][0].key
    return key


@pytest.mark.parametrize("as_factors", [False, True])
@pytest.mark.parametrize("lengths", [(3, 3), (3, 6, 3), (2, 3)])
def test_what_is_kept_is_what_is_computed(lengths: tuple[int, ...], as_factors: bool) -> None:
    contexts = [random(length, WIDTH, seed=seed) for seed, length in enumerate(lengths)]
    kept = KeptTexts(LAYERS)
    for _ in range(2):
        for one, parts in zip(LAYERS, asked(kept, contexts, as_factors=as_factors), strict=True):
            expected = Text(contexts).projected(one, as_factors=as_factors)
            for got, wanted in zip(parts, expected, strict=True):
                assert got.rows == wanted.rows
                torch.testing.assert_close((got.key, got.value), (wanted.key, wanted.value))


def test_neighbours_of_equal_length_attend_together() -> None:
    contexts = [random(length, WIDTH, seed=seed) for seed, length in enumerate((3, 3, 6, 3))]
    for text in (Text(contexts), KeptTexts(LAYERS).text(contexts, CPU, torch.float32)):
        parts = text.projected(LAYERS[0])
        assert [part.rows for part in parts] == [slice(0, 2), slice(2, 3), slice(3, 4)]
        assert [tuple(part.key.shape) for part in parts] == [
            (2, 3, CHANNELS),
            (1, 6, CHANNELS),
            (1, 3, CHANNELS),
        ]


@pytest.mark.parametrize("tokens", [1, 5, LANES - 1, LANES, LANES + 1, 77])
def test_factors_make_attention(tokens: int) -> None:
    context, query = random(tokens, WIDTH), random(1, HEADS, 7, CHANNELS // HEADS, seed=3) * 30
    text = Text([context])
    (plain,), (factors,) = (text.projected(LAYERS[0], as_factors=kind) for kind in (False, True))
    keys, values = (one.view(1, tokens, HEADS, -1).transpose(1, 2) for one in (plain.key, plain.value))
    sums = torch.softmax(query[0] @ factors.key, dim=-1) @ factors.value
    assert factors.key.shape[-1] % LANES == 0
    expected = nn.functional.scaled_dot_product_attention(query, keys, values)[0]
    torch.testing.assert_close(sums[..., :-1] / sums[..., -1:], expected)


def test_a_text_is_projected_once(counted: list[int]) -> None:
    one, other, third = (random(3, WIDTH, seed=seed) for seed in range(3))
    kept = KeptTexts(LAYERS)
    asked(kept, [one, other])
    assert counted == [3] * 8, "two texts, two layers, keys and values"
    asked(kept, [one, other])
    asked(kept, [other, one, one])
    assert len(counted) == 8
    asked(kept, [one, third])
    assert len(counted) == 12
    kept.clear()
    asked(kept, [one, other])
    assert len(counted) == 20


def test_other_weights_make_other_keys(counted: list[int]) -> None:
    context, module = random(3, WIDTH), LAYERS[1].keys
    kept, own = KeptTexts(LAYERS), module._parameters["weight"]
    before = keys_of(kept, context)
    module._parameters["weight"] = nn.Parameter(own * 2, requires_grad=False)
    try:
        torch.testing.assert_close(keys_of(kept, context), before * 2)
    finally:
        module._parameters["weight"] = own
    spent = len(counted)
    assert torch.equal(keys_of(kept, context), before)
    assert len(counted) == spent, "those of the first weights were kept beside"


def test_texts_that_were_used_last_stay_within_the_budget(counted: list[int]) -> None:
    size = 3 * CHANNELS * 4 * 4
    kept = KeptTexts(LAYERS, max_bytes=2 * size)
    texts = [random(3, WIDTH, seed=seed) for seed in range(4)]
    for text in texts:
        asked(kept, [text])
    counted.clear()
    asked(kept, [texts[3], texts[2]])
    assert counted == []
    asked(kept, [texts[0]])
    assert len(counted) == 4


def test_a_batch_larger_than_the_budget_is_computed_as_one(counted: list[int]) -> None:
    kept = KeptTexts(LAYERS, max_bytes=100)
    contexts = [random(3, WIDTH, seed=seed) for seed in range(2)]
    assert not isinstance(kept.text(contexts, CPU, torch.float32), KnownText)
    asked(kept, contexts)
    assert counted == [6] * 4


def test_contexts_are_joined_for_who_wants_them_whole() -> None:
    contexts = [random(2, WIDTH), random(4, WIDTH, seed=1)]
    for text in (Text(contexts), KeptTexts(LAYERS).text(contexts, CPU, torch.float32)):
        assert torch.equal(text.context(), joined(contexts))
