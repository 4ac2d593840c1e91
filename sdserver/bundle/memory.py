"""The device's memory: how much there is, giving it back, and telling when it ran out."""

import gc
from collections.abc import Mapping
from typing import NamedTuple

import torch

_CPU_ALLOCATION_FAILED = "can't allocate memory"


class DeviceMemory(NamedTuple):
    """Bytes; all None where the device is no CUDA device.

    Attributes:
        free, total: of the whole device, whoever uses it.
        allocated, reserved: by this process' tensors, and by PyTorch for them.
        active: of blocks that are in use or were and are not free yet.
        inactive: of the rest of blocks that were split.
        allocated_peak, reserved_peak, active_peak, inactive_peak: their most since the process began.
        retries: how often memory was got only after unused blocks were given back; a count.
        ooms: how often memory did not suffice; a count.
    """

    free: int | None
    total: int | None
    allocated: int | None
    reserved: int | None
    active: int | None = None
    inactive: int | None = None
    allocated_peak: int | None = None
    reserved_peak: int | None = None
    active_peak: int | None = None
    inactive_peak: int | None = None
    retries: int | None = None
    ooms: int | None = None


def measure(device: torch.device) -> DeviceMemory:
    """How the device's memory is used now."""
    if device.type != "cuda":
        return DeviceMemory(None, None, None, None)
    free, total = torch.cuda.mem_get_info(device)
    return memory_of(free, total, torch.cuda.memory_stats(device))


def memory_of(free: int, total: int, stats: Mapping[str, int]) -> DeviceMemory:
    """What `torch.cuda.memory_stats` counts, by our names; it leaves out what it has not counted yet."""

    def count(what: str, when: str = "current") -> int:
        return stats.get(f"{what}.all.{when}", 0)

    return DeviceMemory(
        free,
        total,
        allocated=count("allocated_bytes"),
        reserved=count("reserved_bytes"),
        active=count("active_bytes"),
        inactive=count("inactive_split_bytes"),
        allocated_peak=count("allocated_bytes", "peak"),
        reserved_peak=count("reserved_bytes", "peak"),
        active_peak=count("active_bytes", "peak"),
        inactive_peak=count("inactive_split_bytes", "peak"),
        retries=stats.get("num_alloc_retries", 0),
        ooms=stats.get("num_ooms", 0),
    )


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
