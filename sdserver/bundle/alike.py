"""Rows of a batch that differ in their texts alone, as the two of a picture under guidance do: what comes
before the network first looks at a text is computed once for them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdserver.bundle.lean_layers import Times


@dataclass(frozen=True, slots=True, eq=False)
class Alike:
    """Which rows are alike.

    Attributes:
        firsts: (distinct,), int64: the first row of each kind.
        kinds: (n,), int64: of which kind each row is.
    """

    firsts: Tensor
    kinds: Tensor

    def on(self, device: torch.device) -> "Alike":
        """The same on a device."""
        return Alike(self.firsts.to(device), self.kinds.to(device))

    def once(self, x: Tensor) -> Tensor:
        """One of each kind, of planes (n, channels, h, w); in `channels_last` order, as all planes."""
        return _chosen(x, self.firsts)

    def times_once(self, times: Times) -> Times:
        """One of each kind, of what is added for timesteps; where that is one for all rows, it stays so."""
        return {name: part if len(part) == 1 else part[self.firsts] for name, part in times.items()}

    def planes(self, x: Tensor) -> Tensor:
        """Planes of each kind, (distinct, channels, h, w), for all rows."""
        return _chosen(x, self.kinds)

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens of each kind, (distinct * tokens, channels), for all rows."""
        whole = x.view(len(self.firsts), -1, x.shape[1])
        return whole.index_select(0, self.kinds).view(-1, x.shape[1])


def alike(rows: Sequence[Hashable]) -> Alike | None:
    """Rows are alike if these are equal; None where all differ."""
    numbers: dict[Hashable, int] = {}
    firsts: list[int] = []
    for index, row in enumerate(rows):
        if row not in numbers:
            numbers[row] = len(firsts)
            firsts.append(index)
    if len(firsts) == len(rows):
        return None
    return Alike(torch.tensor(firsts), torch.tensor([numbers[row] for row in rows]))


def _chosen(x: Tensor, rows: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
