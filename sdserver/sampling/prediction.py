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
    return x * c_skip(prediction, sigma) + output * c_out(prediction, sigma)
