"""Keeping what is not to be painted, as AUTOMATIC1111 does it while sampling.

A mask is (h, w) or (1, h, w) in the latent's size, 1 where to paint and 0 where to keep; `init` is the
picture's latent, (channels, h, w), clean.

- Samplers that walk sigmas: every denoised latent is blended after guidance, `blend_denoised`.
- Samplers that walk timesteps: the network is shown a blended x, and its answer is taken for the
  noise in the sampler's own x. `seen = blend_input(x, sigma, ...)` goes to the network, once for
  all conditionings; what is sent to the sampler is `carried_over(denoised, x, seen)`, for the guided
  latent and for the negative prompt's alike.
- After the run, whatever the sampler: the last x is blended once more by `blend_denoised`.
"""

import math

from torch import Tensor


def blend_denoised(denoised: Tensor, init: Tensor, mask: Tensor) -> Tensor:
    """`denoised` where to paint, `init` where to keep."""
    return denoised * mask + init * (1 - mask)


def blend_input(x: Tensor, sigma: float, init: Tensor, mask: Tensor) -> Tensor:
    """What the network is shown instead of x, in the variance-exploding frame like x.

    AUTOMATIC1111 blends in the variance-preserving frame and with the clean latent: no noise is put
    into what is kept.
    """
    return x * mask + init * (math.sqrt(1 + sigma**2) * (1 - mask))


def carried_over(denoised: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """The denoised latent that the noise found in `seen` leaves of `x`.

    With noise = (seen - denoised) / sigma it is x - sigma * noise.
    """
    return x + (denoised - seen)
