"""TAESD with random weights, as its author lays it out."""

from typing import Any

import torch
from torch import Tensor, nn


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(64, 64), nn.ReLU(), conv(64, 64), nn.ReLU(), conv(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


def conv(given: int, made: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(given, made, 3, padding=1, **options)


def decoder() -> nn.Sequential:
    """Latents to 0..1."""

    def level() -> list[nn.Module]:
        return [Block(), Block(), Block(), nn.Upsample(scale_factor=2), conv(64, 64, bias=False)]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = [Clamp(), conv(4, 64), nn.ReLU()]
        return nn.Sequential(*first, *level(), *level(), *level(), Block(), conv(64, 3)).eval()


def encoder() -> nn.Sequential:
    """0..1 to latents."""

    def level() -> list[nn.Module]:
        return [conv(64, 64, stride=2, bias=False), Block(), Block(), Block()]

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(conv(3, 64), Block(), *level(), *level(), *level(), conv(64, 4)).eval()
