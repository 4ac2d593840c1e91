"""Noise that continues a picture, with its spectrum and colours: that of AUTOMATIC1111's "Outpainting mk2".

The random numbers are always the same; what differs between images is the seed that they are painted with.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[np.float64]
Spectrum = NDArray[np.complex128]

SEED: Final = 0
CHANNELS: Final = 3


def with_noise(image: Image.Image, mask: Image.Image, falloff: float, colour_variation: float) -> Image.Image:
    """The picture with noise where the mask is white. Takes some seconds for a large one.

    Args:
        image: RGB.
        mask: L, of the same size, 0 or 255.
        falloff: exponent on the picture's spectrum, at least 0; a lower one gives more detail.
        colour_variation: 0 for grey noise (before it is given the picture's colours) to 1.
    """
    pixels: Values = np.asarray(image) / 255.0
    is_new = np.asarray(mask) > 0
    noise = _shaped(_filled(pixels, is_new), falloff, colour_variation)
    for channel in range(CHANNELS):
        values = noise[..., channel]
        values[is_new] = _matched(values[is_new], pixels[..., channel][~is_new])
        values[~is_new] = pixels[..., channel][~is_new]
    return Image.fromarray((np.clip(noise, 0.0, 1.0) * 255.0).astype(np.uint8))


def _filled(pixels: Values, is_new: NDArray[np.bool_]) -> Values:
    """The picture with its brightest value raised to 1, and its mean where it is new."""
    filled = pixels * ~is_new[..., np.newaxis]
    brightest = filled.max()
    if brightest > 0:
        filled /= brightest
    filled[is_new] += np.average(pixels)
    return filled


def _shaped(pixels: Values, falloff: float, colour_variation: float) -> Values:
    """Noise with the spectrum of some pixels, from 0 to 1."""
    height, width = pixels.shape[:2]
    random: Values = np.random.default_rng(SEED).random(pixels.shape)
    grey = np.sum(random, axis=2) / 3.0
    window = _window(height, width)
    shaped = np.empty_like(pixels)
    for channel in range(CHANNELS):
        noise = random[..., channel] * colour_variation + (1.0 - colour_variation) * grey
        smooth = np.real(_inverse(_spectrum(noise) * window))
        power = np.absolute(_spectrum(smooth)) ** 2
        found = _spectrum(pixels[..., channel])
        amplitude = np.absolute(found)
        # A frequency that the picture does not have has no phase either.
        phase: Spectrum = np.divide(found, amplitude, out=np.zeros_like(found), where=amplitude > 0)
        shaped[..., channel] = np.real(_inverse(power * amplitude**falloff * phase))
    shaped -= shaped.min()
    greatest = shaped.max()
    if greatest > 0:
        shaped /= greatest
    return shaped


def _spectrum(values: Values) -> Spectrum:
    """With the lowest frequencies in the middle."""
    result: Spectrum = np.fft.ifftshift(np.fft.fft2(np.fft.fftshift(values), norm="ortho"))
    return result


def _inverse(spectrum: Spectrum) -> Spectrum:
    result: Spectrum = np.fft.ifftshift(np.fft.ifft2(np.fft.fftshift(spectrum), norm="ortho"))
    return result


def _window(height: int, width: int) -> Values:
    """What is left of each frequency: high ones fade out, equally in both directions."""
    down, across = (_axis(side, min(height, width)) for side in (height, width))
    return 1.0 / ((down**2 + 1.0)[:, np.newaxis] * (across**2 + 1.0)[np.newaxis])


def _axis(length: int, shorter: int) -> Values:
    return (np.arange(length) / length * 2.0 - 1.0) * (length / shorter)


def _matched(source: Values, target: Values) -> Values:
    """Values moved so that they are distributed as the target's; as they are where there is no target."""
    if not source.size or not target.size:
        return source
    _, places, counts = np.unique(source, return_inverse=True, return_counts=True)
    levels, target_counts = np.unique(target, return_counts=True)
    quantiles = np.cumsum(counts) / source.size
    target_quantiles = np.cumsum(target_counts) / target.size
    moved: Values = np.interp(quantiles, target_quantiles, levels)
    return moved[places]
