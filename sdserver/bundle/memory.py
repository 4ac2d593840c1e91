"""The device's memory: how much there is, giving it back, and telling when it ran out."""

import gc
from typing import NamedTuple

import torch

_CPU_ALLOCATION_FAILED = "can't allocate memory"


class DeviceMemory(NamedTuple):
    """Bytes; all None where the device is no CUDA device.

    Attributes:
        free, total: of the whole device, whoever uses it.
        allocated, reserved: by this process' tensors, and by PyTorch for them.
    """

    free: int | None
    total: int | None
    allocated: int | None
    reserved: int | None


def measure(device: torch.device) -> DeviceMemory:
    """How the device's memory is used now."""
    if device.type != "cuda":
        return DeviceMemory(None, None, None, None)
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(free, total, torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))


def release(device: torch.device) -> None:
    """Give back what no tensor uses any more."""
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on an accelerator or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATION_FAILED in str(error)
