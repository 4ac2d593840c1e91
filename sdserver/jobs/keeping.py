"""How much of what was loaded stays in memory."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keeping:
    """How much is kept, as far as memory suffices.

    Attributes:
        on_device: checkpoints on the device, at least 1.
        aside: checkpoints in the CPU's memory beside those, from where they come back quickly. On a CPU both
            are the same.
        vaes: VAEs of their own file that each checkpoint keeps, at least 1.
    """

    on_device: int = 1
    aside: int = 0
    vaes: int = 2

    @property
    def checkpoints(self) -> int:
        """In all."""
        return self.on_device + self.aside
