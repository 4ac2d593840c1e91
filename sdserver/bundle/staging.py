"""Memory that tensors pass through on their way from a file to a device."""

import torch
from torch import Tensor

_SLOTS = 2


class Staging:
    """Buffers on the CPU that are filled in turn; their memory is used again and again.

    For an accelerator they are pinned, so that one is copied while the next is filled.

    Args:
        device: where the tensors go.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._is_pinned = device.type == "cuda"
        count = _SLOTS if self._is_pinned else 1
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * count
        self._done: list[torch.Event | None] = [None] * count
        self._turn = 0

    def take(self, size: int) -> Tensor:
        """So many bytes, free to be written until the next are taken."""
        self._turn = (self._turn + 1) % len(self._buffers)
        done = self._done[self._turn]
        if done is not None:
            done.synchronize()
        if len(self._buffers[self._turn]) < size:
            self._buffers[self._turn] = torch.empty(0, dtype=torch.uint8)  # the old one goes first
            self._buffers[self._turn] = torch.empty(size, dtype=torch.uint8, pin_memory=self._is_pinned)
        return self._buffers[self._turn][:size]

    def sent(self, tensor: Tensor) -> Tensor:
        """A tensor in the bytes taken last, on the device; on a CPU it still lies in them."""
        if self.device.type == "cpu":
            return tensor
        moved = tensor.to(self.device, non_blocking=self._is_pinned)
        if self._is_pinned:
            done = torch.Event(self.device.type)
            done.record()
            self._done[self._turn] = done
        return moved
