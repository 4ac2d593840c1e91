"""What a figure was taken on."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "fastapi", "uvicorn")
EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def facts() -> dict[str, Any]:
    """Processor, memory, packages, commit, command line and time."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "commit": _told("git", "-C", str(ROOT), "rev-parse", "HEAD"),
        "is_changed": bool(_told("git", "-C", str(ROOT), "status", "--porcelain")),
        "processor": processor(),
        "extensions": [name for name in EXTENSIONS if has(name)],
        "cores": cores(),
        "load_average": os.getloadavg()[0],
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "accelerators": accelerators(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Its name as the kernel gives it."""
    return _cpuinfo("model name") or platform.machine()


def has(extension: str) -> bool:
    """Whether the processor has an instruction set extension, by the kernel's name."""
    return extension in _cpuinfo("flags").split()


def accelerators() -> list[str]:
    """Names and driver of NVIDIA's, none where its tool is not there."""
    lines = _told("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    return lines.splitlines()


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _told(*command: str) -> str:
    """What a command prints; nothing if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
