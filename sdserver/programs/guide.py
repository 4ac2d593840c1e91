"""One evaluation of the denoiser: which rows of the network it takes, and how they are combined."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdserver.calls import DeviceCall
from sdserver.jobs.job import Guidance
from sdserver.programs.findings import Findings
from sdserver.programs.network import Network
from sdserver.sampling.guidance import Guided, combine


@dataclass(frozen=True, slots=True)
class Guide:
    """How one pass is guided.

    Attributes:
        cfg_scale: the job's; samplers may scale it.
        guidance: the job's.
        findings: the job's.
    """

    cfg_scale: float
    guidance: Guidance
    findings: Findings

    def is_early(self, network: Network, step: int) -> bool:
        """Whether the evaluation `step`, counted from 0, is too early for the negative prompt."""
        share = self.guidance.skip_early
        return share != 0 and step / network.plan.steps <= share

    def is_low(self, network: Network, sigma: float, step: int) -> bool:
        """Whether `min_uncond` leaves the negative prompt out of the evaluation `step`."""
        guidance = self.guidance
        if step % 2 == 0 and not guidance.min_uncond_all:
            return False
        # A1111 compares what its samplers walk, which for some is timesteps.
        walks_timesteps = network.plan.sampler.kind == "timestep"
        level = network.plan.timestep(sigma) if walks_timesteps else sigma
        return level < guidance.min_uncond

    def evaluate(
        self, network: Network, x: Tensor, sigma: float, step: int
    ) -> Generator[list[DeviceCall], Any, Guided]:
        """The denoised latent at (x, sigma), under guidance, and the one under the negative prompt.

        The negative prompt is not evaluated where it would cancel out and the sampler does not ask for it.
        """
        positives, uncond, is_padded = network.conditionings.at(step)
        sampler = network.plan.sampler
        is_early = self.is_early(network, step)
        is_low = not is_early and self.is_low(network, sigma, step)
        self.findings.padded |= is_padded
        self.findings.skipped_uncond |= is_low
        skips = is_early or is_low
        scale = 1.0 if skips else self.cfg_scale * sampler.guidance_factor
        cancels_out = scale == 1.0 and len(positives) == 1 and positives[0][0] == 1.0
        wanted = [conditioning for _, conditioning in positives]
        if not skips and (sampler.wants_uncond or not cancels_out):
            wanted.append(uncond)
        outputs: list[Tensor] = yield network.predict(x, sigma, wanted, step)
        denoised = [network.plan.denoised(x, output, sigma) for output in outputs]
        # The first positive part stands in for a negative one that was left out, as in A1111.
        base = denoised[len(positives)] if len(denoised) > len(positives) else denoised[0]
        if cancels_out:
            return Guided(denoised[0], base)
        weights = [weight for weight, _ in positives]
        return Guided(combine(list(zip(denoised, weights, strict=False)), base, scale), base)
