"""Classifier-free guidance (Ho & Salimans 2022), on denoised latents."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Guided:
    """What a sampler that `wants_uncond` is sent, instead of the first of these two alone.

    Attributes:
        denoised: the guided denoised latent.
        uncond: the denoised latent under the negative prompt; the positive prompt's stands in for it
            where the negative one was not evaluated.
    """

    denoised: Tensor
    uncond: Tensor


def combine(conds: Sequence[tuple[Tensor, float]], uncond: Tensor, cfg_scale: float) -> Tensor:
    """The guided denoised latent: uncond + sum of weight * cfg_scale * (cond - uncond).

    Args:
        conds: per part of a prompt joined with AND, its denoised latent and weight.
        uncond: the denoised latent under the negative prompt.
        cfg_scale: how far to go from uncond towards the prompt; any number.

    As AUTOMATIC1111: weights are not normalised, and a scale of 1 still takes part.
    """
    guided = uncond
    for cond, weight in conds:
        guided = guided + (cond - uncond) * (weight * cfg_scale)
    return guided
