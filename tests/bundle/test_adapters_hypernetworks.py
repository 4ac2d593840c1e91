"""Hypernetworks: structure, effect, and that they can be taken off."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_calls import assert_close, random
from tiny_checkpoints import Write
from torch import Tensor, nn

from sdserver.bundle.adapters.hypernetworks import read_hypernetwork
from sdserver.bundle.bundle import Bundle
from sdserver.calls import Conditioning, Predict
from sdserver.errors import UnusableAdapter
from sdserver.jobs.model import Adapter, Model

CPU = torch.device("cpu")


def data(width: int, hidden: int, seed: int, last: int = 2) -> dict[str, Tensor]:
    return {
        "linear.0.weight": random(hidden, width, seed=seed) * 0.2,
        "linear.0.bias": random(hidden, seed=seed + 1) * 0.2,
        f"linear.{last}.weight": random(width, hidden, seed=seed + 2) * 0.2,
        f"linear.{last}.bias": random(width, seed=seed + 3) * 0.2,
    }


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def simple(folder: Path, name: str = "hn", seed: int = 0) -> tuple[str, dict[int, Any]]:
    """For contexts of 32 and hidden states of 64, with a ReLU between two linear layers."""
    pairs = {
        width: (data(width, width, seed + width), data(width, width, seed + width + 7)) for width in (32, 64)
    }
    facts = {"layer_structure": [1, 1, 1], "activation_func": "relu", "activate_output": False, "step": 5}
    return saved(folder / f"{name}.pt", pairs | facts), pairs


def run(parts: dict[str, Tensor], x: Tensor, act: Callable[[Tensor], Tensor], strength: float) -> Tensor:
    first, second = (
        lambda value, at=at: value @ parts[f"linear.{at}.weight"].T + parts[f"linear.{at}.bias"]
        for at in (0, 2)
    )
    return x + second(act(first(x))) * strength


def predict(bundle: Bundle, checkpoint: Path, *adapters: Adapter) -> Tensor:
    call = Predict(
        Model(str(checkpoint), adapters=adapters),
        random(4, 8, 8),
        500.0,
        Conditioning(random(77, 32, seed=3)),
    )
    (result,) = bundle.run([call])
    assert isinstance(result, Tensor)
    return result


class Around(nn.Module):
    """A projection that sees its context through a function."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(self.change(x))
        return result


def test_keys_and_values_of_every_attention_see_the_context_through_it(checkpoint: Write, tmp_path: Path):
    path, original = checkpoint("sd1")
    file, pairs = simple(tmp_path)
    other, others = simple(tmp_path, "other", 50)

    def through(index: int) -> Callable[[Tensor], Tensor]:
        def change(x: Tensor) -> Tensor:
            for networks, strength in ((pairs, 0.5), (others, -1.0)):
                if x.shape[-1] in networks:
                    x = run(networks[x.shape[-1]][index], x, torch.relu, strength)
            return x

        return change

    unet: Any = copy.deepcopy(original.unet)
    places = [name for name, _ in unet.named_modules() if name.endswith((".to_k", ".to_v"))]
    for place in places:
        unet.set_submodule(place, Around(unet.get_submodule(place), through(place.endswith("v"))))
    with torch.no_grad():
        (expected,) = unet(
            random(1, 4, 8, 8), torch.tensor([500.0]), random(1, 77, 32, seed=3), return_dict=False
        )
    bundle = Bundle("cpu", "fp32")
    plain = predict(bundle, path)
    adapters = (Adapter("hypernetwork", file, 0.0, 0.5), Adapter("hypernetwork", other, 0.0, -1.0))
    changed = predict(bundle, path, *adapters)
    assert_close(changed, expected[0])
    assert not torch.allclose(changed, plain, atol=1e-3)
    assert torch.equal(predict(bundle, path), plain)
    assert torch.equal(predict(bundle, path, *adapters), changed)


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("leakyrelu", nn.LeakyReLU()),
        ("elu", nn.ELU()),
        ("swish", nn.Hardswish()),
        ("tanh", torch.tanh),
        ("sigmoid", torch.sigmoid),
        ("mish", nn.Mish()),
        ("gelu", nn.GELU()),
    ],
)
def test_activations_are_those_that_the_file_names(
    tmp_path: Path, name: str, act: Callable[[Tensor], Tensor]
):
    parts = data(8, 16, 1)
    content = {
        8: (parts, parts),
        "layer_structure": [1, 2, 1],
        "activation_func": name,
        "activate_output": False,
    }
    found = read_hypernetwork(Path(saved(tmp_path / "hn.pt", content)), 0.5, CPU)
    x = random(1, 5, 8, seed=9)
    torch.testing.assert_close(found.adapt(x, is_key=True), run(parts, x, act, 0.5))


def test_layer_norm_dropout_and_a_final_activation_take_their_places(tmp_path: Path):
    pieces = [
        nn.Linear(8, 16),
        nn.Tanh(),
        nn.LayerNorm(16),
        nn.Dropout(0.3),
        nn.Linear(16, 8),
        nn.Tanh(),
        nn.LayerNorm(8),
    ]
    network = nn.Sequential(*pieces).eval()
    parts = {f"linear.{name}": value.clone() for name, value in network.state_dict().items()}
    content = {
        8: (parts, parts),
        "layer_structure": [1, 2, 1],
        "activation_func": "tanh",
        "is_layer_norm": True,
        "activate_output": True,
        "dropout_structure": [0, 0.3, 0],
    }
    found = read_hypernetwork(Path(saved(tmp_path / "hn.pt", content)), 1.0, CPU)
    x = random(1, 5, 8, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(found.adapt(x, is_key=False), x + network(x))


def test_a_file_that_only_says_that_there_is_dropout_has_it_behind_the_hidden_layers(tmp_path: Path):
    network = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)
    )
    parts = {f"linear.{name}": value.clone() for name, value in network.eval().state_dict().items()}
    content = {
        8: (parts, parts),
        "layer_structure": [1, 1, 1, 1],
        "activation_func": "relu",
        "activate_output": False,
        "use_dropout": True,
    }
    found = read_hypernetwork(Path(saved(tmp_path / "hn.pt", content)), 1.0, CPU)
    x = random(1, 5, 8, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(found.adapt(x, is_key=True), x + network(x))


def test_files_of_the_first_days_have_other_names_and_no_activation(tmp_path: Path):
    parts = data(8, 16, 1, last=1)
    old = {
        name.replace("linear.0", "linear1").replace("linear.1", "linear2"): value
        for name, value in parts.items()
    }
    found = read_hypernetwork(Path(saved(tmp_path / "hn.pt", {8: (old, old), "step": 1})), 1.0, CPU)
    x = random(1, 5, 8, seed=9)
    hidden = x @ parts["linear.0.weight"].T + parts["linear.0.bias"]
    expected = x + hidden @ parts["linear.1.weight"].T + parts["linear.1.bias"]
    torch.testing.assert_close(found.adapt(x, is_key=True), expected)


def test_a_context_of_another_width_passes_as_it_is(tmp_path: Path):
    file, _ = simple(tmp_path)
    x = random(1, 5, 48)
    assert read_hypernetwork(Path(file), 1.0, CPU).adapt(x, is_key=True) is x


class Code:
    """A pickle that runs code when read by an ordinary unpickler."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"step": 1}, "has no layers"),
        ([1, 2], "holds no dictionary"),
        ({8: (data(8, 16, 1), data(8, 9, 1))}, "no hypernetwork that is known"),
        ({8: (data(8, 16, 1), data(8, 16, 1)), "activation_func": "softmax"}, "'softmax' is not served"),
        ({8: Code()}, "cannot be read"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, content: object, words: str):
    file = saved(tmp_path / "bad.pt", content)
    with pytest.raises(UnusableAdapter, match=words):
        read_hypernetwork(Path(file), 1.0, CPU)


def test_a_missing_or_damaged_file_says_so(tmp_path: Path):
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04cut")
    for name in ("cut.pt", "none.pt"):
        with pytest.raises(UnusableAdapter, match=name):
            read_hypernetwork(tmp_path / name, 1.0, CPU)
