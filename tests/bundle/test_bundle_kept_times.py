"""Embeddings of timesteps, kept from call to call."""

import copy
from typing import Any

import pytest
import torch
from bundle_calls import random
from tiny_checkpoints import make
from torch import Tensor, nn

from sdserver.bundle import kept_times
from sdserver.bundle.folder import _take_whole_vector
from sdserver.bundle.kept_times import KeptTimes
from sdserver.jobs.model import Family


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each linear layer's input, in order."""
    found: list[int] = []
    original = kept_times.linear

    def linear(module: Any, x: Tensor) -> Tensor:
        found.append(len(x))
        return original(module, x)

    monkeypatch.setattr(kept_times, "linear", linear)
    return found


def network(family: Family = "sd1") -> Any:
    """Of the test's own, for it is changed."""
    unet: Any = copy.deepcopy(make(family).unet).eval().requires_grad_(False)
    _take_whole_vector(unet)
    return unet


def added(kept: KeptTimes, *timesteps: float, vector: Tensor | None = None) -> list[Tensor]:
    """What each residual block adds, a row for each timestep."""
    found = kept(torch.tensor(timesteps), vector, torch.float32)
    return [part.expand(len(timesteps), -1, 1, 1) for part in found.values()]


@pytest.mark.parametrize("timesteps", [(500.0,), (3.5, 3.5), (1.0, 990.0, 1.0), (0.0, 0.1, 0.2)])
def test_what_is_kept_is_what_is_computed(timesteps: tuple[float, ...]) -> None:
    unet = network()
    kept, computed = KeptTimes(unet), KeptTimes(unet, 0)
    added(kept, 1.0, 77.0)
    for _ in range(2):
        expected = added(computed, *timesteps)
        for got, wanted in zip(added(kept, *timesteps), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_a_timestep_is_computed_once(counted: list[int]) -> None:
    kept = KeptTimes(network())
    added(kept, 1.0, 2.0, 1.0)
    assert set(counted) == {2}
    spent = len(counted)
    added(kept, 2.0, 2.0)
    assert len(counted) == spent
    added(kept, 3.0, 1.0)
    assert counted[spent:] == [1] * spent
    kept.clear()
    added(kept, 1.0)
    assert len(counted) == 3 * spent


def test_other_weights_make_other_embeddings() -> None:
    unet = network()
    kept = KeptTimes(unet)
    before = added(kept, 5.0)
    module = unet.time_embedding.linear_2
    own = module._parameters["bias"]
    module._parameters["bias"] = nn.Parameter(own + 1, requires_grad=False)
    changed = added(kept, 5.0)
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(changed, before, strict=True))
    module._parameters["bias"] = own
    for one, other in zip(added(kept, 5.0), before, strict=True):
        assert torch.equal(one, other)


def test_timesteps_that_were_used_last_stay_within_the_budget(counted: list[int]) -> None:
    unet = network()
    size = sum(part.shape[1] for part in added(KeptTimes(unet), 1.0)) * 4
    kept = KeptTimes(unet, 2 * size)
    for timestep in (1.0, 2.0, 3.0):
        added(kept, timestep)
    counted.clear()
    added(kept, 3.0, 2.0)
    assert counted == []
    added(kept, 1.0)
    assert counted
    added(kept, 10.0, 11.0, 12.0)
    assert len(kept._rows) == 2


def test_nothing_is_kept_where_a_vector_has_its_say() -> None:
    unet = network("sdxl")
    width = unet.config.projection_class_embeddings_input_dim
    kept = KeptTimes(unet)
    one, other = (added(kept, 5.0, vector=random(1, width, seed=seed)) for seed in (1, 2))
    assert all((left - right).abs().max() > 1e-3 for left, right in zip(one, other, strict=True))
    assert not kept._rows
