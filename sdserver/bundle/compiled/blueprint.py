"""What a compiled network is made from, and for: no weights, no checkpoint, no size of picture."""

import hashlib
import inspect
import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdserver.bundle.compiled import blank
from sdserver.bundle.device import Placement
from sdserver.bundle.unet import UpsampleThenFit

_KEY_LENGTH = 32
_PROCESSOR = ("model name", "flags", "Features")


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Everything that the machine code hangs on, but for the machine.

    Attributes:
        config: diffusers' configuration of the UNet, as JSON.
        dtype: the network's number format as torch names it.
        device: kind of device.
        threads: of the processor, which the code divides its loops by; 0 where another device computes.
    """

    config: str
    dtype: str
    device: str
    threads: int

    def key(self) -> str:
        """A name for the code: another machine, library or version of ours has another one."""
        parts = (
            asdict(self),
            torch.__version__,
            version("diffusers"),
            inspect.getsource(blank),
            inspect.getsource(UpsampleThenFit),
            _machine(self.device),
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]


def blueprint(unet: nn.Module, placement: Placement) -> Blueprint:
    """The blueprint of a loaded network."""
    held: Any = unet
    config = {name: value for name, value in held.config.items() if not name.startswith("_")}
    return Blueprint(
        config=json.dumps(config, sort_keys=True),
        dtype=str(placement.dtype).removeprefix("torch."),
        device=placement.device.type,
        threads=torch.get_num_threads() if placement.device.type == "cpu" else 0,
    )


def _machine(device: str) -> list[str]:
    """What code for it may be of no use elsewhere, or end a process there."""
    if device == "cuda":
        return [
            torch.cuda.get_device_name(),
            str(torch.cuda.get_device_capability()),
            str(torch.version.cuda),
        ]
    found = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [*found, platform.processor()]
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return found + [told[name] for name in _PROCESSOR if name in told]
