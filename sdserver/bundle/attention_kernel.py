"""Which attention kernel a CUDA device is fastest with, found by a short measurement."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

log = logging.getLogger(__name__)

Kernel = Literal["flash", "cudnn", "efficient", "xformers"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (n, heads, tokens, channels of a head) to the same."""

Sizes = tuple[int, int, int]
"""Heads, tokens, channels of a head."""

BACKENDS: Final[Mapping[str, SDPBackend]] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
ROWS: Final = 4
TOKENS: Final = 4096
"""Of the outermost level: 512x512 pixels for SD 1 and 2."""

XFORMERS_WORTH: Final = 0.95
"""Its time must be below this share of PyTorch's best, for it also costs memory traffic around it."""


def head_sizes(unet: nn.Module) -> list[Sizes]:
    """The self-attention layers' sizes at 512x512, each once."""
    held: Any = unet
    found: set[Sizes] = set()
    for level, block in enumerate(held.down_blocks):
        for place in getattr(block, "attentions", ()):
            for one in place.transformer_blocks:
                heads = one.attn1.heads
                found.add((heads, TOKENS >> 2 * level, one.attn1.to_q.out_features // heads))
    return sorted(found)


def ways(device: torch.device) -> Mapping[str, Attend]:
    """The kernels there are on a CUDA device."""
    found: dict[str, Attend] = {name: _by_backend(backend) for name, backend in BACKENDS.items()}
    if find_spec("xformers") is not None:
        found["xformers"] = _by_xformers
    return found if device.type == "cuda" else {}


def fastest(
    kernels: Mapping[str, Attend],
    sizes: Sequence[Sizes],
    timed: Callable[[Attend, Sizes], float],
) -> str | None:
    """The kernel whose time for all sizes together is least; None where none runs them all.

    Args:
        kernels: by name.
        sizes: what they are to run.
        timed: seconds that a kernel takes for a size; raises RuntimeError where it cannot run it.
    """
    times: dict[str, float] = {}
    for name, attend in kernels.items():
        try:
            times[name] = sum(timed(attend, size) for size in sizes)
        except (RuntimeError, NotImplementedError, ValueError, ImportError) as error:
            log.info("Attention by %s is not to be had: %s", name, str(error).partition("\n")[0])
    if not times or not sizes:
        return None
    best = min(times, key=lambda name: times[name] / (XFORMERS_WORTH if name == "xformers" else 1.0))
    log.info("Attention by %s: %s ms.", best, {name: round(1000 * time, 3) for name, time in times.items()})
    return best


def timed_on(device: torch.device, dtype: torch.dtype) -> Callable[[Attend, Sizes], float]:
    """Times kernels by the device's own clock."""

    def timed(attend: Attend, sizes: Sizes) -> float:
        heads, tokens, channels = sizes
        x = torch.zeros(ROWS, heads, tokens, channels, device=device, dtype=dtype)
        for _ in range(3):
            attend(x, x, x)
        cuda: Any = torch.cuda
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            attend(x, x, x)
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / 10_000

    return timed


@contextmanager
def preferred(kernel: str | None) -> Iterator[None]:
    """Have PyTorch's attention try this kernel first, inside the context."""
    if kernel is None or kernel not in BACKENDS:
        yield
        return
    first = BACKENDS[kernel]
    rest = [backend for backend in BACKENDS.values() if backend != first]
    with sdpa_kernel([first, *rest, SDPBackend.MATH], set_priority=True):
        yield


def _by_backend(backend: SDPBackend) -> Attend:
    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(query, key, value)

    return attend


def _by_xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    operations = import_module("xformers.ops")
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    result: Tensor = operations.memory_efficient_attention(query, key, value).transpose(1, 2)
    return result
