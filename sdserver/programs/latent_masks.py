"""Masks on latents: what stands in the masked area at the start, and what is kept while sampling."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sdserver.calls import DeviceCall
from sdserver.jobs.job import Mask, Noise, SoftInpainting
from sdserver.programs.guide import Guide
from sdserver.programs.network import Network
from sdserver.programs.pixels import to_plane
from sdserver.programs.soft_inpainting import interpolated, new_parts, shade
from sdserver.sampling.guidance import Guided
from sdserver.sampling.inpainting import blend_denoised, blend_input, carried_over
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.prediction import c_in


@dataclass(frozen=True, slots=True, eq=False)
class LatentMask:
    """What is painted and what is kept.

    Attributes:
        paint: (1, h, w), 1 where to paint, 0 where to keep, or between.
        kept: (channels, h, w): the latent that is kept, free of noise.
        soft: None where what is kept is kept as it is.
    """

    paint: Tensor
    kept: Tensor
    soft: SoftInpainting | None = None

    def blend(self, latent: Tensor) -> Tensor:
        """The end of a run: the latent where to paint, the kept one where to keep. A soft mask keeps nothing
        then.
        """
        return latent if self.soft else blend_denoised(latent, self.kept, self.paint)

    def new_parts(self, latent: Tensor) -> bytes:
        """What of the end of a run is new: see `soft_inpainting.new_parts`; nothing where all counts so."""
        return new_parts(latent, self.kept, self.paint, self.soft) if self.soft else b""

    def evaluate(
        self, guide: Guide, network: Network, x: Tensor, sigma: float, step: int
    ) -> Generator[list[DeviceCall], Any, Guided]:
        """`Guide.evaluate` under the mask: see `sampling.inpainting` for how samplers differ."""
        if network.plan.sampler.kind == "sigma":
            guided = yield from guide.evaluate(network, x, sigma, step)
            return Guided(self._denoised(guided.denoised, sigma), guided.uncond)
        seen = self._seen(x, sigma, network.plan.timestep(sigma))
        guided = yield from guide.evaluate(network, seen, sigma, step)
        return Guided(carried_over(guided.denoised, x, seen), carried_over(guided.uncond, x, seen))

    def _denoised(self, denoised: Tensor, sigma: float) -> Tensor:
        if self.soft is None:
            return blend_denoised(denoised, self.kept, self.paint)
        return interpolated(self.kept, denoised, shade(self.paint, sigma, self.soft), self.soft.detail)

    def _seen(self, x: Tensor, sigma: float, timestep: float) -> Tensor:
        """What the network is shown. A1111's soft blend takes the timestep for a sigma there."""
        if self.soft is None:
            return blend_input(x, sigma, self.kept, self.paint)
        share, scale = shade(self.paint, timestep, self.soft), c_in(sigma)
        return interpolated(self.kept, x * scale, share, self.soft.detail) / scale


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
    return LatentMask(paint, kept, mask.soft)
