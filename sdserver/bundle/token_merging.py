"""Token merging before self-attention: Bolya & Hoffman (2023), "Token Merging for Fast Stable Diffusion".

Of every 2 x 2 tokens one stays; of the others those that are most like one that stays are merged with it,
and get its result. Nothing is random: A1111 takes the upper left ones.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

STRIDE: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Which tokens are merged, for each row of a batch.

    Attributes:
        sources, targets: (s,) and (t,): places of the tokens that may be merged and of those that stay.
        alone: (n, s - r): which sources stay, by their place in `sources`.
        merged: (n, r): which do not.
        into: (n, r): with which target, by its place in `targets`.
    """

    sources: Tensor
    targets: Tensor
    alone: Tensor
    merged: Tensor
    into: Tensor

    def merge(self, x: Tensor) -> Tensor:
        """(n, tokens, width) to (n, tokens - r, width): those that stay alone, then the targets, each the
        mean of itself and what is merged with it.
        """
        sources, targets = x[:, self.sources], x[:, self.targets]
        width = x.shape[-1]
        merged = sources.gather(1, _wide(self.merged, width))
        if x.device.type == "cuda":
            means = means_in_order(targets, self.into, merged)
        else:
            means = targets.scatter_reduce(1, _wide(self.into, width), merged, "mean")
        return torch.cat([sources.gather(1, _wide(self.alone, width)), means], dim=1)

    def unmerge(self, x: Tensor) -> Tensor:
        """The reverse: merged tokens are given their target's values."""
        count, width = self.alone.shape[1], x.shape[-1]
        targets = x[:, count:]
        result = x.new_empty(len(x), len(self.sources) + len(self.targets), width)
        result[:, self.targets] = targets
        result.scatter_(1, _wide(self.sources[self.alone], width), x[:, :count])
        shared = targets.gather(1, _wide(self.into, width))
        return result.scatter_(1, _wide(self.sources[self.merged], width), shared)


def match(metric: Tensor, height: int, width: int, ratio: float) -> Matching | None:
    """Find what to merge; None where that is nothing.

    Args:
        metric: (n, height * width, channels): tokens are alike where the angle between these is small.
        height: of the grid of tokens.
        width: of it.
        ratio: share of all tokens that are merged; three of four are the most.
    """
    wanted = int(metric.shape[1] * ratio)
    stays = torch.zeros(height, width, dtype=torch.bool, device=metric.device)
    inside = (height // STRIDE * STRIDE, width // STRIDE * STRIDE)
    stays[: inside[0] : STRIDE, : inside[1] : STRIDE] = True
    targets, sources = stays.flatten().nonzero()[:, 0], (~stays).flatten().nonzero()[:, 0]
    if wanted <= 0 or not len(targets):
        return None
    units = metric / metric.norm(dim=-1, keepdim=True)
    likeness, nearest = (units[:, sources] @ units[:, targets].transpose(-1, -2)).max(dim=-1)
    order = likeness.argsort(dim=-1, descending=True, stable=True)
    alone, merged = order[:, wanted:], order[:, :wanted]
    return Matching(sources, targets, alone, merged, nearest.gather(1, merged))


def means_in_order(targets: Tensor, into: Tensor, merged: Tensor) -> Tensor:
    """The targets' means with what is merged with them. CUDA adds in a fixed order here, which it does not in
    `scatter_reduce`: a seed's picture would not be the same twice.
    """
    rows = torch.arange(len(into), device=into.device).unsqueeze(-1).expand_as(into)
    sums = targets.clone().index_put_((rows, into), merged, accumulate=True)
    counts = targets.new_ones(targets.shape[:2])
    counts.index_put_((rows, into), counts.new_ones(into.shape), accumulate=True)
    return sums / counts.unsqueeze(-1)


def left(tokens: int, ratio: float, height: int, width: int) -> int:
    """How many of a grid's tokens `Matching.merge` leaves."""
    targets = (height // STRIDE) * (width // STRIDE)
    return tokens - min(int(tokens * ratio), tokens - targets) if targets else tokens


def _wide(places: Tensor, width: int) -> Tensor:
    return places.unsqueeze(-1).expand(-1, -1, width)
