"""The device's memory: how much there is, giving it back, and telling when it ran out."""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch

from sdserver.bundle.heap import give_back, hold

_CPU_ALLOCATION_FAILED = "can't allocate memory"

GIB: Final = 1 << 30
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
_UNLIMITED: Final = 1 << 60

HELD_SHARE: Final = 16
"""Of the spare memory: one part may be kept free by this process."""


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


def measure(device: torch.device, peaks: Mapping[str, int] | None = None) -> DeviceMemory:
    """How the device's memory is used now.

    Args:
        device: any.
        peaks: what was counted as most before it was begun to count anew, by torch's names.
    """
    if device.type != "cuda":
        return DeviceMemory(None, None, None, None)
    free, total = torch.cuda.mem_get_info(device)
    stats = torch.cuda.memory_stats(device)
    return memory_of(free, total, with_peaks(stats, peaks or {}))


def with_peaks(stats: Mapping[str, int], peaks: Mapping[str, int]) -> dict[str, int]:
    """What was counted, where the most may have been earlier."""
    return {**stats, **{name: max(stats.get(name, 0), value) for name, value in peaks.items()}}


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
    if device.type == "cpu":
        give_back()
    else:
        torch.accelerator.empty_cache()


def hold_freed() -> None:
    """From now on, have this process keep memory of tensors that are gone for the next ones, until `release`.

    A sixteenth of what is spare, at most 1 GiB; nothing where nobody knows how much that is.
    """
    spare = spare_of(host_memory())
    if spare:
        hold(spare // HELD_SHARE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on an accelerator or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATION_FAILED in str(error)


class HostMemory(NamedTuple):
    """The CPU's memory in bytes.

    Attributes:
        free: what may still be taken without swapping; files that are merely cached count as free.
        total: of the machine, or what this process and its kin may take.
    """

    free: int
    total: int


def host_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> HostMemory | None:
    """What the machine and this container leave, the lesser of both; None where the system does not tell."""
    machine = _machine_memory(meminfo)
    container = _container_memory(cgroup)
    if machine is None or container is None:
        return machine or container
    return HostMemory(min(machine.free, container.free), min(machine.total, container.total))


def spare_of(memory: HostMemory | None) -> int | None:
    """Bytes that may be taken for what is only kept: a tenth of the memory, at least 1 GiB, stays free."""
    return None if memory is None else max(0, memory.free - max(GIB, memory.total // 10))


def _machine_memory(meminfo: Path) -> HostMemory | None:
    try:
        lines = [line.split() for line in meminfo.read_text().splitlines()]
        found = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        return HostMemory(found["MemAvailable:"], found["MemTotal:"])
    except (OSError, ValueError, KeyError):
        return None


def _container_memory(cgroup: Path) -> HostMemory | None:
    """By control groups of version 2 or 1; None where they set no limit."""
    for limit_name, used_name, stat_name, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            limit = int((cgroup / limit_name).read_text())
            used = int((cgroup / used_name).read_text())
            counts = dict(line.split() for line in (cgroup / stat_name).read_text().splitlines())
            used -= int(counts.get(cached, 0))
        except (OSError, ValueError):
            continue
        if limit < _UNLIMITED:
            return HostMemory(max(0, limit - used), limit)
    return None
