"""DeepDanbooru: the network that gives pictures labels, read from the file of its PyTorch port (MIT)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdserver.bundle.content import SAFE, Content, read_content
from sdserver.bundle.device import Placement
from sdserver.bundle.last_used import LastUsed, stamp_of
from sdserver.calls import Scores
from sdserver.errors import UnreadableCheckpoint
from sdserver.images.pictures import to_image
from sdserver.images.resize import FIT, resize
from sdserver.jobs.events import Picture

SIDE: Final = 512
"""Of the pictures that the network takes."""

LABELS_FILE: Final = "tags.txt"
"""What holds the labels, one a line, beside a .safetensors file that does not tell them itself."""

_COLOURS = 3
_ENTRY = 7
_LONGEST_LABELS = 4 << 20


@dataclass(frozen=True, slots=True)
class _Group:
    """Blocks of one width, the first of which may make the picture smaller.

    Attributes:
        blocks: how many.
        stride: of the first one.
        shortcut_last: whether the first one's shortcut is numbered after its other convolutions.
    """

    blocks: int
    stride: int = 2
    shortcut_last: bool = False


GROUPS: Final = (
    _Group(3, stride=1),
    _Group(8),
    _Group(20),
    _Group(20, shortcut_last=True),
    _Group(3),
    _Group(3),
)
"""What lies between the first and the last convolution; a block narrows (1x1), looks (3x3), widens (1x1)."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Numbers of a block's convolutions.

    Attributes:
        shortcut: None where the block's input is added as it is.
    """

    narrow: int
    look: int
    widen: int
    shortcut: int | None
    stride: int


def _blocks() -> Iterator[_Block]:
    number = 1
    for group in GROUPS:
        for index in range(group.blocks):
            if index > 0:
                yield _Block(number, number + 1, number + 2, None, 1)
                number += 3
            elif group.shortcut_last:
                yield _Block(number, number + 1, number + 2, number + 3, group.stride)
                number += 4
            else:
                yield _Block(number + 1, number + 2, number + 3, number, group.stride)
                number += 4


BLOCKS: Final = tuple(_blocks())
LAST: Final = BLOCKS[-1].widen + 1
"""Number of the convolution that makes a map of every label."""


class DanbooruNetwork(nn.Module):
    """A residual network without normalisation. Its parameters are named as in the port's file.

    Args:
        shapes: of the parameters; they tell how wide it is and how many labels there are.

    Raises:
        ValueError: a parameter is missing or of a shape that does not fit the others.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self._shapes = shapes
        width = self._add(0, _COLOURS, _ENTRY, 2)
        for block in BLOCKS:
            wide = self._add(
                block.widen,
                self._add(block.look, self._add(block.narrow, width, 1), 3, block.stride),
                1,
            )
            beside = width if block.shortcut is None else self._add(block.shortcut, width, 1, block.stride)
            if wide != beside:
                raise ValueError(f"n_Conv_{block.widen} gives {wide} channels in the place of {beside}")
            width = wide
        self.labels = self._add(LAST, width, 1, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores of 0..1, (n, labels), of pictures (n, 3, height, width) in 0..1."""
        x = functional.relu(self._run(0, functional.pad(pixels, (2, 3, 2, 3))))
        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)
        for block in BLOCKS:
            x = self._through(block, x)
        return self._run(LAST, x).float().mean(dim=(2, 3)).sigmoid()

    def _through(self, block: _Block, x: Tensor) -> Tensor:
        inner = functional.relu(self._run(block.narrow, x))
        # As TensorFlow pads: a stride of 2 needs an edge on one side only.
        inner = functional.pad(inner, (1, 1, 1, 1) if block.stride == 1 else (0, 1, 0, 1))
        inner = self._run(block.widen, functional.relu(self._run(block.look, inner)))
        beside = x if block.shortcut is None else self._run(block.shortcut, x)
        return functional.relu(inner + beside)

    def _run(self, number: int, x: Tensor) -> Tensor:
        result: Tensor = self.get_submodule(f"n_Conv_{number}")(x)
        return result

    def _add(self, number: int, width: int, side: int, stride: int = 1, *, bias: bool = True) -> int:
        """Add a convolution; its width is what the file says."""
        name = f"n_Conv_{number}"
        shape = tuple(self._shapes.get(f"{name}.weight", ()))
        wanted = (*shape[:1], width, side, side)
        expected = {f"{name}.weight": wanted} | ({f"{name}.bias": shape[:1]} if bias else {})
        found = {key: tuple(self._shapes.get(key, ())) for key in expected}
        if not shape or found != expected:
            raise ValueError(f"{name} is of the shape {shape}, which does not fit")
        self.add_module(name, nn.Conv2d(width, shape[0], side, stride, bias=bias))
        return shape[0]


@dataclass(frozen=True, slots=True)
class _Labeller:
    network: DanbooruNetwork
    names: tuple[str, ...]


class Labellers:
    """The network that was used last, loaded when it is first needed.

    Args:
        allow_pickle: whether the port's .pt file may be read (weights only).
    """

    def __init__(self, placement: Placement, *, allow_pickle: bool) -> None:
        self._placement = placement
        self._allow_pickle = allow_pickle
        self._used: LastUsed[_Labeller] = LastUsed()

    def score(self, path: str, pictures: Sequence[Picture]) -> list[Scores]:
        """Every label's score, for each picture, which is fitted in as A1111 does.

        Raises:
            UnreadableCheckpoint: the file is missing, damaged, or holds another network.
            UnsupportedCheckpoint: it is a pickle and those are not allowed.
            RuntimeError: the device's memory does not suffice.
        """
        file = Path(path)
        places = [place for place in (file, file.with_name(LABELS_FILE)) if place == file or place.is_file()]
        stamp = stamp_of(f"The network {file.name}", places)
        used = self._used.get(stamp, partial(_load, file, self._placement, allow_pickle=self._allow_pickle))
        pixels = torch.stack([_pixels(picture) for picture in pictures])
        found = used.network(pixels.to(self._placement.device, self._placement.dtype))
        return [tuple(zip(used.names, scores, strict=True)) for scores in found.tolist()]

    def clear(self) -> None:
        """Drop the network, to make room on the device."""
        self._used.clear()


def _pixels(picture: Picture) -> Tensor:
    image = resize(to_image(picture), FIT, SIDE, SIDE)
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)


def _load(path: Path, placement: Placement, *, allow_pickle: bool) -> _Labeller:
    content = read_content(path, allow_pickle=allow_pickle)
    try:
        with torch.device("meta"):
            network = DanbooruNetwork({name: value.shape for name, value in content.tensors.items()})
        state = {name: content.tensors[name].to(placement.dtype) for name in network.state_dict()}
    except (ValueError, RuntimeError) as error:
        raise UnreadableCheckpoint(f"{path.name} does not hold DeepDanbooru: {error}.") from error
    names = _names(path, content)
    if len(names) != network.labels:
        raise UnreadableCheckpoint(
            f"{path.name} knows {network.labels:,} labels, but {len(names):,} names are there: download it"
            " again."
        )
    network.load_state_dict(state, strict=True, assign=True)
    network.to(placement.device).eval().requires_grad_(requires_grad=False)
    return _Labeller(network, names)


def _names(path: Path, content: Content) -> tuple[str, ...]:
    """The labels: of the file itself, else of the text file beside it.

    Raises:
        UnreadableCheckpoint: there are none, or they are no texts.
    """
    told: Any = content.others.get("tags")
    try:
        if told is None and path.suffix.lower() == SAFE:
            told = _lines(path.with_name(LABELS_FILE))
        elif isinstance(told, str):
            told = json.loads(told) if told.startswith("[") else told.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(
            f"{path.name} does not tell its labels: put {LABELS_FILE} beside it, one label a line."
        ) from error
    if not isinstance(told, list) or not all(isinstance(name, str) for name in told):
        raise UnreadableCheckpoint(f"{path.name} holds no list of labels ('tags'): download it again.")
    return tuple(told)


def _lines(path: Path) -> list[str]:
    if path.stat().st_size > _LONGEST_LABELS:
        raise ValueError("too long")
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
