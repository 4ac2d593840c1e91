"""One image's random numbers: the only place where any are drawn.

Every image has its own generator, so that a batch equals its single pictures, and no global random
state is read or written. Draws are those of AUTOMATIC1111's `ImageRNG` for equal seeds.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdserver.jobs.job import Noise, RandomSource, Size
from sdserver.sampling.brownian import BrownianTree

Shape = tuple[int, int, int]
Drawn = tuple[int, ...]
LATENT_SCALE = 8

Words = NDArray[np.uint64]

_WORD = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Generator(Protocol):
    """A seeded stream of standard normal values."""

    def draw(self, shape: Drawn) -> Tensor:
        """The next values as float32."""
        ...


class TorchGenerator:
    """torch's own generator on a device; the values depend on the kind of device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def draw(self, shape: Drawn) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device, dtype=torch.float32)


class PhiloxGenerator:
    """What torch draws on an NVIDIA GPU, computed on the host.

    Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3") and the sine
    half of Box-Muller, with torch's assignment of counters: one per element and draw.
    """

    def __init__(self, seed: int) -> None:
        self._key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
        self._draws = 0

    def draw(self, shape: Drawn) -> Tensor:
        count = int(np.prod(shape))
        counter = np.zeros((4, count), dtype=np.uint64)
        counter[0] = self._draws
        counter[2] = np.arange(count)
        self._draws += 1
        first, second = _philox(counter, self._key)
        return torch.from_numpy(_box_muller(first, second).reshape(shape))


class ImageNoise:
    """The noise of one image in one pass.

    A new pass (hires) makes a new one: its draws begin again with the image's seed.
    """

    def __init__(self, spec: Noise, shape: Shape, device: torch.device) -> None:
        """Seed the image's generator.

        Args:
            spec: seeds and source.
            shape: (channels, height, width) of the latent.
            device: where the values are wanted, and the device whose generator "GPU" names.
        """
        self._spec = spec
        self._shape = shape
        self._device = device
        self._generator = make_generator(spec.source, spec.seed, device)

    def first(self) -> Tensor:
        """The initial noise, (channels, height, width); call it once, before all other draws.

        A subseed's noise is mixed in, and noise of another size pasted centred into this one's, as
        the job says. Draws after it come from `seed + seed_delta` if there is a delta (ENSD).
        """
        spec = self._spec
        source_shape = _resized(self._shape, spec.resize_from)
        if source_shape == self._shape:
            noise = self._generator.draw(self._shape)
        else:
            noise = make_generator(spec.source, spec.seed, self._device).draw(source_shape)
        if spec.strength != 0:
            subnoise = make_generator(spec.source, spec.subseed, self._device).draw(source_shape)
            noise = slerp(spec.strength, noise, subnoise)
        if source_shape != self._shape:
            noise = paste_centred(self._generator.draw(self._shape), noise)
        if spec.seed_delta != 0:
            seed = spec.seed + spec.seed_delta
            self._generator = make_generator(spec.source, seed, self._device)
        return noise.to(self._device)

    def next(self) -> Tensor:
        """The next draw of the image's generator, (channels, height, width)."""
        return self._generator.draw(self._shape).to(self._device)

    def brownian(self, sigma_min: float, sigma_max: float) -> Callable[[float, float], Tensor]:
        """Noise for the steps of an SDE sampler; leaves the image's generator alone.

        Args:
            sigma_min: the smallest positive sigma of the full schedule; of what is walked, where the images
                of a batch share a path.
            sigma_max: the largest.
        """
        shared = self._spec.shared_path

        def draw(seed: int) -> Tensor:
            generator = make_generator(self._spec.source, seed, self._device)
            if shared is None:
                return generator.draw(self._shape).to(self._device)
            return generator.draw((shared.count, *self._shape))[shared.place].to(self._device)

        seed = self._spec.seed if shared is None else _drawn_seed(shared.seed)
        return BrownianTree(draw, seed, sigma_min, sigma_max)

    @property
    def shares_path(self) -> bool:
        """Whether `brownian` is one path for all images of a batch."""
        return self._spec.shared_path is not None


def _drawn_seed(seed: int) -> int:
    """What A1111 seeds the path with that a batch shares: the first number of torch's own generator, which it
    has seeded with the seed of the batch's last image when that image's noise was drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    return int(torch.randint(0, 2**63 - 1, (), generator=generator).item())


def make_generator(source: RandomSource, seed: int, device: torch.device) -> Generator:
    """A fresh generator. "GPU" is the device's own; Apple's draws on the CPU, as AUTOMATIC1111 does."""
    seed &= 0xFFFFFFFFFFFFFFFF
    if source == "NV":
        return PhiloxGenerator(seed)
    if source == "CPU" or device.type == "mps":
        return TorchGenerator(seed, torch.device("cpu"))
    return TorchGenerator(seed, device)


def slerp(share: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation from `low` (share 0) to `high` (share 1) along the height axis.

    As AUTOMATIC1111, whose weights are the wrong way round where both are nearly parallel.
    """
    cosine = (_unit(low) * _unit(high)).sum(1)
    if cosine.mean() > 0.9995:
        return low * share + high * (1 - share)
    angle = torch.acos(cosine)
    low_weight = torch.sin((1.0 - share) * angle) / torch.sin(angle)
    high_weight = torch.sin(share * angle) / torch.sin(angle)
    return low_weight.unsqueeze(1) * low + high_weight.unsqueeze(1) * high


def paste_centred(canvas: Tensor, patch: Tensor) -> Tensor:
    """`canvas` with the middle of `patch` in its middle; both (channels, height, width)."""
    pasted = canvas.clone()
    to_y, from_y = _overlap(canvas.shape[1], patch.shape[1])
    to_x, from_x = _overlap(canvas.shape[2], patch.shape[2])
    pasted[:, to_y, to_x] = patch[:, from_y, from_x]
    return pasted


def _overlap(canvas: int, patch: int) -> tuple[slice, slice]:
    margin = (canvas - patch) // 2
    length = patch if margin >= 0 else patch + 2 * margin
    to, start = max(margin, 0), max(-margin, 0)
    return slice(to, to + length), slice(start, start + length)


def _resized(shape: Shape, size: Size | None) -> Shape:
    if size is None:
        return shape
    return (shape[0], size.height // LATENT_SCALE, size.width // LATENT_SCALE)


def _unit(noise: Tensor) -> Tensor:
    return noise / noise.square().sum(1, keepdim=True).sqrt()


def _philox(counter: Words, key: tuple[int, int]) -> tuple[Words, Words]:
    """Ten rounds over counters (4, n) of 32-bit words; the first two words of each result."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high = c0 * np.uint64(0xD2511F53)
        low = c2 * np.uint64(0xCD9E8D57)
        c0, c1 = (low >> _SHIFT) ^ c1 ^ np.uint64(k0), low & _WORD
        c2, c3 = (high >> _SHIFT) ^ c3 ^ np.uint64(k1), high & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1


def _box_muller(first: Words, second: Words) -> NDArray[np.float32]:
    """Standard normal float32 values from two arrays of 32-bit words."""
    scale = np.float32(2.0**-32)
    turn = np.float32(2 * np.pi)
    uniform = first.astype(np.float32) * scale + scale / 2
    angle = second.astype(np.float32) * (scale * turn) + scale / 2 * turn
    radius = np.sqrt(np.float32(-2.0) * np.log(uniform))
    return np.asarray(radius * np.sin(angle), dtype=np.float32)
