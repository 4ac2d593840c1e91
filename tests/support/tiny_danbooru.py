"""DeepDanbooru with random weights and few channels, in a file laid out as that of its PyTorch port."""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

LABELS = ("1girl", "solo", "long_hair", "smile_(happy)", "sky", "rating:safe", "rating:explicit", "a\\b")

# Of the published network: blocks, channels inside, channels outside.
PUBLISHED = ((3, 64, 256), (8, 128, 512), (20, 256, 1024), (20, 256, 1024), (3, 512, 2048), (3, 1024, 4096))


def published_shapes(labels: int = 9176, scale: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters; channels are divided by the scale."""
    shapes: dict[str, tuple[int, ...]] = {}
    numbers = itertools.count()

    def convolution(given: int, made: int, side: int, *, bias: bool = True) -> None:
        name = f"n_Conv_{next(numbers)}"
        shapes[f"{name}.weight"] = (made, given, side, side)
        if bias:
            shapes[f"{name}.bias"] = (made,)

    width = 64 // scale
    convolution(3, width, 7)
    for index, (blocks, *channels) in enumerate(PUBLISHED):
        inner, outer = (count // scale for count in channels)
        for block in range(blocks):
            parts = [(width, inner, 1), (inner, inner, 3), (inner, outer, 1)]
            if block == 0:
                parts.insert(3 if index == 3 else 0, (width, outer, 1))
            for part in parts:
                convolution(*part)
            width = outer
    convolution(width, labels, 1, bias=False)
    return shapes


def random_state(seed: int = 0, scale: int = 16) -> dict[str, Tensor]:
    """Weights so large that pictures matter to the scores."""
    generator = np.random.default_rng(seed)
    state = {}
    for name, shape in published_shapes(len(LABELS), scale).items():
        spread = 0.3 if name.endswith("bias") else (1.2 / torch.Size(shape[1:]).numel()) ** 0.5
        state[name] = torch.from_numpy(generator.normal(0, spread, shape).astype(np.float32))
    state["n_Conv_178.weight"] *= 0.25
    return state


def write_danbooru(path: Path, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Write the file, its labels in it.

    Returns:
        The parameters.
    """
    state = random_state() if state is None else state
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path, {"tags": json.dumps(LABELS)})
    else:
        torch.save({**state, "tags": list(LABELS)}, path)
    return state
