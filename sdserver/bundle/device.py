"""The device, number format and attention kernel that the settings ask for."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch

from sdserver.errors import SettingsError

Precision = Literal["auto", "fp16", "bf16", "fp32"]
Attention = Literal["auto", "sdpa", "xformers"]

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how networks run.

    Attributes:
        use_xformers: whether attention is xformers' instead of PyTorch's own.
        is_steady: whether results must not hang on what memory was spare at the moment of loading, not even
            by rounding.
    """

    device: torch.device
    dtype: torch.dtype
    use_xformers: bool
    is_steady: bool = False


def resolve(device: str, precision: Precision, attention: Attention, *, is_steady: bool = False) -> Placement:
    """Settings to facts. "auto" is the best accelerator there is, fp16 there and fp32 on a CPU, and
    PyTorch's scaled dot product attention.

    Raises:
        SettingsError: the device is not there, or xformers is asked for but cannot be used.
    """
    place = _device(device)
    if attention == "xformers":
        if place.type != "cuda":
            raise SettingsError(
                f"attention=xformers needs a CUDA device, not {place}: choose attention=sdpa."
            )
        if find_spec("xformers") is None:
            raise SettingsError("attention=xformers needs the package xformers: install sdserver[cuda].")
    chosen = ("fp32" if place.type == "cpu" else "fp16") if precision == "auto" else precision
    return Placement(place, _DTYPES[chosen], attention == "xformers", is_steady)


def _device(name: str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        name = accelerator.type if accelerator else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(
            f"device={name} is no device: choose auto, cpu, cuda, cuda:1, mps or xpu."
        ) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if accelerator is None or device.type != accelerator.type:
        raise SettingsError(f"device={name} is not available here: choose device=auto.")
    index = device.index or 0
    if index >= torch.accelerator.device_count():
        raise SettingsError(
            f"device={name} is not there: {torch.accelerator.device_count()} devices were found."
        )
    return torch.device(device.type, index)
