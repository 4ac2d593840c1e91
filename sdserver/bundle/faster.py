"""What may stand between a network and its callers to make it faster."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Evaluate = Callable[[], Tensor]


class Faster(Protocol):
    """A faster way to a network's output, for the calls that it takes."""

    def predict(
        self,
        evaluate: Evaluate,
        sample: Tensor,
        timesteps: Tensor,
        context: Evaluate,
        vector: Tensor | None,
    ) -> Tensor:
        """The network's output.

        Args:
            evaluate: the plain way to it.
            sample: (n, channels, h, w) in `channels_last` order, of the network's type, on its device.
            timesteps: (n,), float32.
            context: gives (n, tokens, width).
            vector: (n, width) where the family has one.
        """
        ...

    def release(self) -> None:
        """Let go of the network's parameters and of memory on its device: they may move."""
        ...
