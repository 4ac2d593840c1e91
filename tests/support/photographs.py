"""Pictures with the statistics of photographs, and others that are hard to pack, made from nothing."""

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def leaves(side: int, seed: int, noise: float, softness: float) -> Pixels:
    """Discs over discs, their sizes distributed as objects in photographs are ("dead leaves").

    Args:
        side: in pixels.
        seed: of the discs.
        noise: the sensor's, as a standard deviation.
        softness: the lens's, in pixels.
    """
    rng = np.random.default_rng(seed)
    canvas = np.zeros((side, side, 3), np.uint8)
    least, most = side / 256, side * 0.3
    for share in rng.random(4000):
        radius = 1 / np.sqrt(share / least**2 + (1 - share) / most**2)
        colour = tuple(int(value) for value in rng.integers(20, 236, 3))
        x, y = (int(value) for value in rng.integers(0, side, 2))
        cv2.circle(canvas, (x, y), int(radius), colour, -1, cv2.LINE_AA)
    lit = canvas * (0.75 + 0.25 * _cloud(side, seed)[..., None])
    blurred = cv2.GaussianBlur(lit, (0, 0), softness)
    return (blurred + rng.normal(0, 1, lit.shape) * noise).clip(0, 255).astype(np.uint8)


def clouds(side: int, seed: int, noise: float) -> Pixels:
    """Coloured clouds, whose power falls off with the frequency as photographs' does."""
    rng = np.random.default_rng(seed)
    common = _cloud(side, seed)
    planes = np.stack([0.8 * common + 0.2 * _cloud(side, seed + 1 + k) for k in range(3)], -1)
    return (128 + 100 * planes + rng.normal(0, 1, planes.shape) * noise).clip(0, 255).astype(np.uint8)


def blurred_noise(side: int, seed: int, softness: float = 3.0) -> Pixels:
    """Noise out of focus."""
    rng = np.random.default_rng(seed)
    field = cv2.GaussianBlur(rng.normal(0, 1, (side, side, 3)), (0, 0), softness)
    return (128 + 50 * field / field.std()).clip(0, 255).astype(np.uint8)


def gradient(side: int) -> Pixels:
    """Colours that change evenly, without noise."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    return (np.stack([x, y, (x + y) / 2], -1) * 255).astype(np.uint8)


def photographs(side: int) -> Mapping[str, Pixels]:
    """Those that are like photographs."""
    return {
        "leaves": leaves(side, 1, 2.0, 0.7),
        "clean leaves": leaves(side, 2, 0.0, 1.0),
        "clouds": clouds(side, 3, 1.0),
        "clean clouds": clouds(side, 4, 0.0),
        "blurred noise": blurred_noise(side, 5),
    }


def _cloud(side: int, seed: int) -> npt.NDArray[np.float64]:
    """From -1 to 1."""
    rng = np.random.default_rng([seed, 1])
    frequencies = np.fft.fftfreq(side)
    distance = np.hypot(frequencies[:, None], frequencies[None])
    distance[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / distance**1.2).real
    return ((field - field.mean()) / field.std()).clip(-2.5, 2.5) / 2.5
