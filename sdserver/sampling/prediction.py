"""From what the network outputs to the denoised latent, in the variance-exploding frame.

A noisy latent is x = x0 + sigma * noise. Formulas: Karras et al. (2022), table 1; for v,
Salimans & Ho (2022), appendix D.
"""

import math

from torch import Tensor

from sdserver.jobs.model import PredictionType


def c_in(sigma: float) -> float:
    """Factor that brings x to the network's input: 1 / sqrt(sigma^2 + 1)."""
    return 1.0 / math.sqrt(sigma**2 + 1.0)


def c_skip(prediction: PredictionType, sigma: float) -> float:
    """Share of x in the denoised latent."""
    return 1.0 if prediction == "epsilon" else 1.0 / (sigma**2 + 1.0)


def c_out(prediction: PredictionType, sigma: float) -> float:
    """Factor of the network's output in the denoised latent."""
    return -sigma if prediction == "epsilon" else -sigma / math.sqrt(sigma**2 + 1.0)


def to_denoised(prediction: PredictionType, x: Tensor, output: Tensor, sigma: float) -> Tensor:
    """The denoised latent, of the shape of `x`.

    Args:
        prediction: what the network was trained to output.
        x: the noisy latent before scaling by `c_in`.
        output: what the network said for `x * c_in(sigma)`.
        sigma: the noise level of `x`.
    """
    scaled = output * c_out(prediction, sigma)
    # Of epsilon all of x is left, to the bit.
    return x + scaled if prediction == "epsilon" else x * c_skip(prediction, sigma) + scaled


def from_v(x: Tensor, output: Tensor, sigma: float, root: float, rest: float) -> Tensor:
    """The denoised latent of a network that predicts v at a level that is not quite that of `x`.

    Args:
        x: the noisy latent before scaling by `c_in`.
        output: what the network said for `x * c_in(sigma)`.
        sigma: the noise level of `x`.
        root: the square root of the alpha that v is taken apart with.
        rest: the square root of 1 - that alpha.
    """
    return x * (1 - sigma * rest * c_in(sigma)) - output * (sigma * root)


def consistent(x: Tensor, denoised: Tensor, timestep: float) -> Tensor:
    """The boundary condition of consistency models: Luo et al. (2023), LCM, with sigma_data 0.5.

    At the lowest timestep in use, 19, it weighs x with 7e-6.
    """
    scaled = timestep * 10.0
    skip = 0.25 / (scaled**2 + 0.25)
    return denoised * (scaled / math.sqrt(scaled**2 + 0.25)) + x * skip
