"""Labels are those of the published network's structure; files that hold something else say so."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_danbooru import LABELS, published_shapes, random_state, write_danbooru
from torch import Tensor
from torch.nn import functional

from sdserver.bundle.bundle import Bundle
from sdserver.bundle.danbooru import DanbooruNetwork
from sdserver.calls import Score
from sdserver.errors import UnreadableCheckpoint, UnsupportedCheckpoint
from sdserver.images.pictures import to_image
from sdserver.images.resize import resize
from sdserver.jobs.events import Picture

STRIDES = {0, 11, 13, 36, 38, 98, 100, 158, 160, 168, 170}
SHORTCUTS = {1: 1, 11: 11, 36: 36, 97: 100, 158: 158, 168: 168}
"""Of the blocks that begin with these numbers."""


def noise(seed: int, width: int = 48, height: int = 40) -> Picture:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(width, height, values.tobytes())


def same(x: Tensor, side: int, stride: int, value: float = 0.0) -> Tensor:
    """Padded as TensorFlow's SAME, of squares."""
    size = x.shape[-1]
    rest = max((math.ceil(size / stride) - 1) * stride + side - size, 0)
    return functional.pad(x, (rest // 2, rest - rest // 2) * 2, value=value)


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network, walked convolution by convolution."""

    def run(number: int, x: Tensor) -> Tensor:
        weight, bias = state[f"n_Conv_{number}.weight"], state.get(f"n_Conv_{number}.bias")
        side, stride = weight.shape[-1], 2 if number in STRIDES else 1
        return functional.conv2d(same(x, side, stride), weight, bias, stride)

    x = run(0, x).relu()
    x = functional.max_pool2d(same(x, 3, 2, -math.inf), 3, 2)
    number = 1
    while number < 178:
        own = SHORTCUTS.get(number)
        end = number + (3 if own is None else 4)
        first, second, third = (at for at in range(number, end) if at != own)
        y = run(third, run(second, run(first, x).relu()).relu())
        x = (y + (x if own is None else run(own, x))).relu()
        number = end
    return run(178, x).mean((2, 3)).sigmoid()


def scores(file: Path, *pictures: Picture, allow_pickle: bool = True) -> list[Any]:
    bundle = Bundle("cpu", allow_pickle=allow_pickle)
    return bundle.run([Score(str(file), picture) for picture in pictures])


def test_the_published_network_fits() -> None:
    shapes = published_shapes()
    assert len(shapes) == 179 * 2 - 1
    assert shapes["n_Conv_97.weight"] == (256, 1024, 1, 1)
    assert shapes["n_Conv_100.weight"] == (1024, 1024, 1, 1)
    assert shapes["n_Conv_158.weight"] == (2048, 1024, 1, 1)
    assert shapes["n_Conv_178.weight"] == (9176, 4096, 1, 1)
    with torch.device("meta"):
        network = DanbooruNetwork(shapes)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == shapes
    halved = {
        int(name.removeprefix("n_Conv_"))
        for name, module in network.named_modules()
        if module_stride(module) == 2
    }
    assert halved == STRIDES


def module_stride(module: torch.nn.Module) -> int:
    return module.stride[0] if isinstance(module, torch.nn.Conv2d) else 0


@pytest.mark.parametrize("name", ["model-resnet_custom_v3.pt", "model-resnet_custom_v3.safetensors"])
def test_scores_are_the_networks(tmp_path: Path, name: str) -> None:
    state = write_danbooru(tmp_path / name)
    pictures = [noise(1), noise(2, 90, 30), noise(3, 7, 200)]
    found = scores(tmp_path / name, *pictures)
    for picture, told in zip(pictures, found, strict=True):
        fitted = np.asarray(resize(to_image(picture), 2, 512, 512), np.float32) / 255
        (expected,) = reference(state, torch.from_numpy(fitted.transpose(2, 0, 1))[None])
        assert [label for label, _ in told] == list(LABELS)
        values = torch.tensor([score for _, score in told])
        assert torch.allclose(values, expected, atol=1e-4)
        assert expected.max() - expected.min() > 0.2
    assert found[0] != found[1]


def test_a_file_is_read_again_once_it_changed_or_was_unloaded(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    write_danbooru(file)
    bundle, calls = Bundle("cpu", allow_pickle=True), [Score(str(file), noise(1))]
    before = bundle.run(calls)
    assert bundle.run(calls) == before
    bundle.unload()
    assert bundle.run(calls) == before
    write_danbooru(file, random_state(seed=5))
    assert bundle.run(calls) != before


def test_labels_may_lie_beside_a_safe_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(random_state(), file)
    with pytest.raises(UnreadableCheckpoint, match=r"tags\.txt"):
        scores(file, noise(1))
    (tmp_path / "tags.txt").write_text("\n".join(LABELS) + "\n\n")
    ((*told,),) = scores(file, noise(1), allow_pickle=False)
    assert [label for label, _ in told] == list(LABELS)
    (tmp_path / "tags.txt").write_text("one\ntwo\n")
    with pytest.raises(UnreadableCheckpoint, match="8 labels, but 2 names"):
        scores(file, noise(1))


def test_pickles_need_to_be_allowed(tmp_path: Path) -> None:
    write_danbooru(tmp_path / "x.pt")
    with pytest.raises(UnsupportedCheckpoint, match=r"x\.pt is a pickle.*--allow-pickle"):
        scores(tmp_path / "x.pt", noise(1), allow_pickle=False)


class _Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({**random_state(), "tags": _Hostile(mark)}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(_Hostile(mark), 2))
    for name in ("x.pt", "y.pt"):
        with pytest.raises(UnreadableCheckpoint, match=name):
            scores(tmp_path / name, noise(1))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_Conv_5.weight": None}, "n_Conv_5"),
        ({"n_Conv_5.bias": None}, "n_Conv_5"),
        ({"n_Conv_13.weight": torch.zeros(8, 8, 1, 1)}, "n_Conv_13"),
        ({"n_Conv_14.weight": torch.zeros(5, 8, 1, 1), "n_Conv_14.bias": torch.zeros(5)}, "n_Conv_14"),
        ({"tags": ["x"] * 7}, "8 labels, but 7 names"),
        ({"tags": None}, "no list of labels"),
        ({"tags": [1] * 8}, "no list of labels"),
    ],
)
def test_files_that_hold_another_network_say_so(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = {**random_state(), "tags": list(LABELS), **change}
    torch.save({name: value for name, value in content.items() if value is not None}, tmp_path / "x.pt")
    with pytest.raises(UnreadableCheckpoint, match=words) as caught:
        scores(tmp_path / "x.pt", noise(1))
    assert "x.pt" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no file of tensors", json.dumps({}).encode()])
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_damaged_files_are_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableCheckpoint, match=name):
        scores(tmp_path / name, noise(1))
    with pytest.raises(UnreadableCheckpoint, match="gone"):
        scores(tmp_path / f"gone-{name}", noise(1))
