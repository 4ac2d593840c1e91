"""Denoising: drives a sampler, asks the UNet for each evaluation, and guides what it says."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdserver.calls import Call, Conditioning, DeviceCall, Interrupted, Predict, Report
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Conditionings
from sdserver.sampling.guidance import combine
from sdserver.sampling.plan import Plan
from sdserver.sampling.prediction import c_in, to_denoised
from sdserver.sampling.run import Evaluations


@dataclass(frozen=True, slots=True)
class Denoised:
    """The latent that sampling ended with. `interrupted`: it ended early, on request."""

    latent: Tensor
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Network:
    """The UNet as one pass of one job sees it.

    Attributes:
        concat: what an inpainting checkpoint takes beside the latent, (5, h, w); None for others.
    """

    model: ModelFacts
    plan: Plan
    conditionings: Conditionings
    concat: Tensor | None = None

    def predict(self, x: Tensor, sigma: float, conditioning: Conditioning) -> Predict:
        """The call for one row at (x, sigma)."""
        scaled = x * c_in(sigma)
        if self.concat is not None:
            scaled = torch.cat([scaled, self.concat])
        return Predict(self.model.model, scaled, self.plan.timestep(sigma), conditioning)


def denoise(
    sampler: Evaluations, network: Network, cfg_scale: float
) -> Generator[Call | list[DeviceCall], Any, Denoised]:
    """Run a sampler to its end. One evaluation is one call of the network per conditioning.

    On interruption the last denoised latent stands for the result, as in AUTOMATIC1111.

    Raises:
        Interrupted: before the first evaluation was done.
    """
    latest: Tensor | None = None
    evaluations = network.plan.evaluations
    step = 0
    try:
        x, sigma = next(sampler)
        while True:
            latest = yield from guided(network, x, sigma, step, cfg_scale)
            step += 1
            yield Report(step, evaluations)
            x, sigma = sampler.send(latest)
    except StopIteration as end:
        return Denoised(end.value, interrupted=False)
    except Interrupted:
        if latest is None:
            raise
        return Denoised(latest, interrupted=True)


def guided(
    network: Network, x: Tensor, sigma: float, step: int, cfg_scale: float
) -> Generator[list[DeviceCall], Any, Tensor]:
    """The denoised latent at (x, sigma), under guidance.

    Where the scale is 1 and there is one positive part, the negative part cancels out and is not run.
    """
    parts = network.conditionings.positives(step)
    wanted: list[Conditioning] = [conditioning for _, conditioning in parts]
    needs_uncond = cfg_scale != 1.0 or len(parts) > 1 or parts[0][0] != 1.0
    if needs_uncond:
        wanted.append(network.conditionings.uncond(step))
    outputs: list[Tensor] = yield [network.predict(x, sigma, one) for one in wanted]
    denoised = [to_denoised(network.model.prediction, x, output, sigma) for output in outputs]
    if not needs_uncond:
        return denoised[0]
    weights = [weight for weight, _ in parts]
    return combine(list(zip(denoised[:-1], weights, strict=True)), denoised[-1], cfg_scale)
