"""Arithmetic on single numbers, with k-diffusion's last digit.

k-diffusion keeps sigmas in tensors, so its exponentials, logarithms and roots are torch's. Those differ
from Python's in the last digit, on some arguments and some machines. Sums, products and quotients do not.
"""

import struct
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

KEPT: Final = 4096
"""Values of each function that are kept: jobs walk the same sigmas again and again."""


@lru_cache(maxsize=KEPT)
def exp(value: float) -> float:
    """Euler's number to the power of a value; 0 for minus infinity."""
    return float(_double(value).exp())


def expm1(value: float) -> float:
    """Euler's number to the power of a value, less 1; -1 for minus infinity."""
    return float(_double(value).expm1())


@lru_cache(maxsize=KEPT)
def log(value: float) -> float:
    """The natural logarithm of a value of 0 or above; minus infinity for 0."""
    return float(_double(value).log())


@lru_cache(maxsize=KEPT)
def sqrt(value: float) -> float:
    """The square root of a value; 0 below 0."""
    return float(_double(max(value, 0.0)).sqrt())


def square(value: float) -> float:
    """The square, rounded correctly, which Python's power does not promise."""
    return value * value


def time_of(sigma: float) -> float:
    """-log sigma: the time that solvers in log sigma walk, the papers' lambda. Infinite for 0."""
    return -log(sigma)


def sigma_at(time: float) -> float:
    """The sigma of a time; not always the very same as the one whose time it is."""
    return exp(-time)


def float32(value: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device="cpu")
