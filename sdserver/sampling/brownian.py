"""Brownian motion that is a function of its seed and of nothing else.

A virtual Brownian tree (Li et al. 2020, "Scalable Gradients for Stochastic Differential Equations"):
the interval is halved until the queried times are met, each half's increment follows from its
parent's by a Brownian bridge, and each bridge has a seed of its own. Times are resolved to 1e-6.
Seeds, splits and rounding are those of torchsde's `BrownianTree`, which AUTOMATIC1111 uses, so equal
seeds give equal noise.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

DIGITS = 6
ENTROPY_POOL = 24
CACHED_NODES = 48


@dataclass(frozen=True, slots=True)
class _Node:
    start: float
    end: float
    key: int = 0
    depth: int = 0

    def halves(self) -> "tuple[_Node, _Node]":
        middle = round(0.5 * (self.start + self.end), DIGITS)
        return (
            _Node(self.start, middle, 2 * self.key, self.depth + 1),
            _Node(middle, self.end, 2 * self.key + 1, self.depth + 1),
        )


class BrownianTree:
    """Normal noise for steps between sigmas: the increments of one Brownian path, scaled to variance 1.

    k-diffusion's `BrownianTreeNoiseSampler`: a larger step over the same sigmas gets the sum of the
    smaller steps' noise, so pictures vary little with the number of steps.
    """

    def __init__(self, draw: Callable[[int], Tensor], seed: int, sigma_min: float, sigma_max: float) -> None:
        """Span a tree from `sigma_min` to `sigma_max`.

        Args:
            draw: standard normal values of the image's shape for a seed below 2**32.
            seed: the image's seed.
            sigma_min: the lower end of the range; above 0.
            sigma_max: the upper end.
        """
        self._draw = draw
        self._seed = seed
        self._root = _Node(round(sigma_min, DIGITS), round(sigma_max, DIGITS))
        self._whole = draw(self._seed_for(None)) * math.sqrt(sigma_max - sigma_min)
        self._cache: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Noise of variance 1 for the step from `sigma` to another `sigma_next` in the tree's range."""
        low, high = sorted((self._clamped(sigma), self._clamped(sigma_next)))
        parts = self._increments(self._root, self._whole, low, high)
        total = next(parts, None)
        if total is None:
            return self._whole * 0.0
        for part in parts:
            total = total + part
        sign = 1.0 if sigma < sigma_next else -1.0
        return total * (sign / math.sqrt(abs(sigma_next - sigma)))

    def _clamped(self, sigma: float) -> float:
        return min(max(round(sigma, DIGITS), self._root.start), self._root.end)

    def _increments(self, node: _Node, value: Tensor, low: float, high: float) -> Iterator[Tensor]:
        """The increments of the largest nodes that make up `low` to `high`, in ascending order."""
        if low >= high:
            return
        if (low, high) == (node.start, node.end):
            yield value
            return
        left, right = node.halves()
        left_value = self._left_value(node, left, value)
        if low < left.end:
            yield from self._increments(left, left_value, low, min(high, left.end))
        if high > right.start:
            yield from self._increments(right, value - left_value, max(low, right.start), high)

    def _left_value(self, node: _Node, left: _Node, value: Tensor) -> Tensor:
        """The left half's increment: a Brownian bridge under the whole's."""
        name = (node.depth, node.key)
        if name not in self._cache:
            before, after = left.end - node.start, node.end - left.end
            width = node.end - node.start
            noise = self._draw(self._seed_for(node))
            self._cache[name] = before * value / width + math.sqrt(before * after / width) * noise
            if len(self._cache) > CACHED_NODES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name]

    def _seed_for(self, node: _Node | None) -> int:
        """The seed of a node's bridge, or of the whole path's increment."""
        spawn_key = () if node is None else (node.key, node.depth)
        sequence = np.random.SeedSequence(self._seed, spawn_key=spawn_key, pool_size=ENTROPY_POOL)
        return int(sequence.generate_state(1)[0])
