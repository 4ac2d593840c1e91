"""Formulas of the kinds of adapters, against LyCORIS' own modules and against plain arithmetic."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bundle_calls import random
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from torch import Tensor, nn

from sdserver.bundle.adapters.kinds import Misfit, change, is_known

Make = Callable[..., Any]
LINEAR = "linear"
CONV = "conv"
NORM = "norm"


def layer(kind: str) -> nn.Module:
    module: nn.Module
    if kind == LINEAR:
        module = nn.Linear(24, 32)
    elif kind == CONV:
        module = nn.Conv2d(24, 32, 3, padding=1)
    else:
        module = nn.LayerNorm(32)
    fill(module)
    return module


def fill(module: nn.Module, seed: int = 0) -> None:
    for index, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=seed + index) * 0.3


def tensors(module: nn.Module) -> dict[str, Tensor]:
    state = module.custom_state_dict() or module.state_dict()  # type: ignore[operator]
    return {name: value.detach().float() for name, value in state.items()}


LYCORIS = [
    (LoConModule, LINEAR, {"alpha": 2}),
    (LoConModule, CONV, {"alpha": 2}),
    (LoConModule, CONV, {"alpha": 2, "use_tucker": True}),
    (LoConModule, LINEAR, {"alpha": 2, "weight_decompose": True, "wd_on_out": False}),
    (LoConModule, CONV, {"alpha": 2, "weight_decompose": True, "wd_on_out": False}),
    (LohaModule, LINEAR, {"alpha": 2}),
    (LohaModule, CONV, {"alpha": 2}),
    (LohaModule, CONV, {"alpha": 2, "use_tucker": True}),
    (LohaModule, LINEAR, {"alpha": 2, "weight_decompose": True, "wd_on_out": False}),
    (LokrModule, LINEAR, {"alpha": 1, "lora_dim": 2, "factor": 4}),
    (LokrModule, LINEAR, {"alpha": 1, "lora_dim": 1, "decompose_both": True, "factor": 8}),
    (LokrModule, LINEAR, {"full_matrix": True, "factor": 4}),
    (LokrModule, CONV, {"alpha": 1, "lora_dim": 2, "factor": 4}),
    (LokrModule, CONV, {"alpha": 1, "lora_dim": 2, "factor": 4, "use_tucker": True}),
    (LokrModule, CONV, {"full_matrix": True, "factor": 4}),
    (IA3Module, LINEAR, {"train_on_input": False}),
    (IA3Module, LINEAR, {"train_on_input": True}),
    (DiagOFTModule, LINEAR, {"lora_dim": 8}),
    (DiagOFTModule, CONV, {"lora_dim": 8, "constraint": 1e-3, "rescaled": True}),
    (ButterflyOFTModule, LINEAR, {"lora_dim": 4}),
    (ButterflyOFTModule, CONV, {"lora_dim": 4, "rescaled": True}),
    (FullModule, LINEAR, {}),
    (FullModule, CONV, {}),
    (NormModule, NORM, {}),
    (GLoRAModule, LINEAR, {"alpha": 2}),
    (GLoRAModule, CONV, {"alpha": 2}),
]


@pytest.mark.parametrize(("make", "kind", "options"), LYCORIS)
def test_changes_a_weight_as_lycoris_does(make: Make, kind: str, options: dict[str, Any]):
    base = layer(kind)
    weight, bias = (base.get_parameter(name).detach().clone() for name in ("weight", "bias"))
    module = make("name", base, multiplier=1.0, **options)
    if make is FullModule:
        module.apply_to()
    fill(module, 100)
    parts = tensors(module)
    assert is_known(frozenset(parts))
    with torch.no_grad():
        expected, expected_bias = merged(module, weight)
        found = change(parts, weight, None)
    torch.testing.assert_close(weight + found.weight, expected.reshape(weight.shape), atol=1e-5, rtol=1e-4)
    assert found.weight.abs().max() > 1e-3
    if expected_bias is not None:
        assert found.bias is not None
        torch.testing.assert_close(bias + found.bias, expected_bias)


def merged(module: Any, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """The weight as the module trains on it: LoHa's and LoKr's own merge scales once more than that."""
    if not isinstance(module, LohaModule | LokrModule):
        together: tuple[Tensor, Tensor | None] = module.get_merged_weight(multiplier=1.0)
        return together
    added = weight + module.get_weight(weight.shape)
    return (module.apply_weight_decompose(added) if module.wd else added), None


WEIGHT = random(8, 6, seed=1)


def lora(rank: int = 4, **extra: float) -> dict[str, Tensor]:
    named = {name: torch.tensor(value) for name, value in extra.items()}
    return {"lora_up.weight": random(8, rank, seed=2), "lora_down.weight": random(rank, 6, seed=3)} | named


def test_alpha_is_divided_by_the_rank_and_a_scale_of_its_own_wins():
    product = change(lora(), WEIGHT, None).weight
    torch.testing.assert_close(change(lora(alpha=1.0), WEIGHT, None).weight, product / 4)
    torch.testing.assert_close(change(lora(alpha=1.0, scale=3.0), WEIGHT, None).weight, product * 3)


def test_dyn_dim_cuts_the_rank_and_keeps_the_scale():
    parts = lora(alpha=2.0)
    expected = parts["lora_up.weight"][:, :2] @ parts["lora_down.weight"][:2] * 2 / 4
    torch.testing.assert_close(change(parts, WEIGHT, 2).weight, expected)


def test_a_1x1_convolution_and_a_linear_layer_take_each_others_tensors():
    flat = lora()
    tall = {name: value[:, :, None, None] for name, value in flat.items()}
    expected = change(flat, WEIGHT, None).weight
    assert torch.equal(change(tall, WEIGHT, None).weight, expected)
    assert torch.equal(change(flat, WEIGHT[:, :, None, None], None).weight, expected[:, :, None, None])


def test_a_change_of_four_channels_leaves_an_inpainting_networks_other_five():
    parts = {"diff": random(3, 4, 3, 3)}
    found = change(parts, random(3, 9, 3, 3, seed=5), None).weight
    assert torch.equal(found[:, :4], parts["diff"])
    assert not found[:, 4:].any()


def test_a_bias_of_the_weight_is_added_before_the_scale():
    extra = random(8, 6, seed=7)
    parts = lora(alpha=2.0)
    expected = (parts["lora_up.weight"] @ parts["lora_down.weight"] + extra) * 0.5
    torch.testing.assert_close(change(parts | {"bias": extra}, WEIGHT, None).weight, expected)


def test_dora_scales_the_low_rank_part_before_the_norm_per_input():
    magnitude = random(1, 6, seed=8).abs()
    parts = lora(alpha=2.0) | {"dora_scale": magnitude}
    merged = WEIGHT + parts["lora_up.weight"] @ parts["lora_down.weight"] * 0.5
    expected = merged / merged.norm(dim=0, keepdim=True) * magnitude
    torch.testing.assert_close(WEIGHT + change(parts, WEIGHT, None).weight, expected)


def test_old_glora_reads_with_its_first_matrix_and_heeds_no_alpha():
    a1, a2, b1, b2 = random(2, 6), random(6, 2, seed=1), random(2, 6, seed=2), random(8, 2, seed=3)
    parts = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(9.0)}
    torch.testing.assert_close(change(parts, WEIGHT, None).weight, b2 @ b1 + WEIGHT @ a2 @ a1)


def test_old_oft_holds_the_rotations_themselves():
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).expand(4, 2, 2)
    parts = {"oft_diag": turn, "alpha": torch.tensor(9.0)}
    rotated = WEIGHT + change(parts, WEIGHT, None).weight
    expected = torch.stack([torch.stack([-pair[1], pair[0]]) for pair in WEIGHT.split(2)]).flatten(0, 1)
    torch.testing.assert_close(rotated, expected)


def test_oft_keeps_angles_between_columns():
    parts = {"oft_blocks": random(2, 4, 4, seed=4)}
    rotated = WEIGHT + change(parts, WEIGHT, None).weight
    torch.testing.assert_close(rotated.T @ rotated, WEIGHT.T @ WEIGHT, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(rotated, WEIGHT, atol=0.1)


@pytest.mark.parametrize(
    "parts",
    [
        {"lora_up.weight": random(8, 4), "lora_down.weight": random(4, 5)},
        {"diff": random(7, 6)},
        {"lora_up.weight": random(8, 4), "lora_down.weight": random(3, 6)},
        {"oft_blocks": random(3, 4, 4)},
    ],
)
def test_what_does_not_fit_is_an_error(parts: dict[str, Tensor]):
    assert issubclass(Misfit, RuntimeError)
    with pytest.raises(RuntimeError):
        change(parts, WEIGHT, None)


def test_parts_that_make_no_adapter_are_not_known():
    assert not is_known(frozenset({"lora_up.weight", "alpha"}))
    assert not is_known(frozenset({"weight"}))
    assert not is_known(frozenset())
