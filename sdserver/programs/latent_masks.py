"""Masks on latents: what stands in the masked area at the start, and what is kept while sampling."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sdserver.calls import DeviceCall
from sdserver.jobs.job import Mask, Noise
from sdserver.programs.guide import Guide
from sdserver.programs.network import Network
from sdserver.programs.pixels import to_plane
from sdserver.sampling.guidance import Guided
from sdserver.sampling.inpainting import blend_denoised, blend_input, carried_over
from sdserver.sampling.noise import ImageNoise


@dataclass(frozen=True, slots=True, eq=False)
class LatentMask:
    """What is painted and what is kept.

    Attributes:
        paint: (1, h, w), 1 where to paint, 0 where to keep, or between.
        kept: (channels, h, w): the latent that is kept, free of noise.
    """

    paint: Tensor
    kept: Tensor

    def blend(self, latent: Tensor) -> Tensor:
        """The latent where to paint, the kept one where to keep."""
        return blend_denoised(latent, self.kept, self.paint)

    def evaluate(
        self, guide: Guide, network: Network, x: Tensor, sigma: float, step: int
    ) -> Generator[list[DeviceCall], Any, Guided]:
        """`Guide.evaluate` under the mask: see `sampling.inpainting` for how samplers differ."""
        if network.plan.sampler.kind == "sigma":
            guided = yield from guide.evaluate(network, x, sigma, step)
            return Guided(self.blend(guided.denoised), guided.uncond)
        seen = blend_input(x, sigma, self.kept, self.paint)
        guided = yield from guide.evaluate(network, seen, sigma, step)
        return Guided(carried_over(guided.denoised, x, seen), carried_over(guided.uncond, x, seen))


def latent_mask(mask: Mask, latent: Tensor, noise: Noise) -> LatentMask:
    """The mask, and the latent with the content that the mask asks for in it.

    Args:
        mask: the job's.
        latent: (channels, h, w): the picture's.
        noise: the job's, for its source; "latent noise" is that of the mask's seed alone, without
            variation or resizing.
    """
    height, width = latent.shape[1:]
    paint = to_plane(mask.latent, width, height, str(latent.device))
    if mask.is_rounded:
        paint = paint.round()
    kept = latent
    if mask.content in ("latent noise", "latent nothing"):
        kept = latent * (1.0 - paint)
    if mask.content == "latent noise":
        plain = replace(noise, seed=mask.content_seed, strength=0.0, resize_from=None)
        shape = (latent.shape[0], height, width)
        kept = kept + ImageNoise(plain, shape, latent.device).first() * paint
    return LatentMask(paint, kept)
