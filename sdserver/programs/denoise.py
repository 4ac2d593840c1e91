"""Denoising: drives a sampler, asks the UNet for each evaluation, and guides what it says."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

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


def denoise(
    sampler: Evaluations, plan: Plan, conditionings: Conditionings, cfg_scale: float, model: ModelFacts
) -> Generator[Call | list[DeviceCall], Any, Denoised]:
    """Run a sampler to its end. One evaluation is one call of the network per conditioning.

    On interruption the last denoised latent stands for the result, as in AUTOMATIC1111.

    Raises:
        Interrupted: before the first evaluation was done.
    """
    latest: Tensor | None = None
    try:
        x, sigma = next(sampler)
        for step in range(plan.evaluations):
            latest = yield from guided(x, sigma, step, plan, conditionings, cfg_scale, model)
            yield Report(step + 1, plan.evaluations)
            x, sigma = sampler.send(latest)
    except StopIteration as end:
        return Denoised(end.value, interrupted=False)
    except Interrupted:
        if latest is None:
            raise
        return Denoised(latest, interrupted=True)
    raise RuntimeError(f"the sampler wants more than its {plan.evaluations} evaluations")


def guided(
    x: Tensor,
    sigma: float,
    step: int,
    plan: Plan,
    conditionings: Conditionings,
    cfg_scale: float,
    model: ModelFacts,
) -> Generator[list[DeviceCall], Any, Tensor]:
    """The denoised latent at (x, sigma), under guidance.

    Where the scale is 1 and there is one positive part, the negative part cancels out and is not run.
    """
    parts = conditionings.positives(step)
    wanted: list[Conditioning] = [conditioning for _, conditioning in parts]
    needs_uncond = cfg_scale != 1.0 or len(parts) > 1 or parts[0][0] != 1.0
    if needs_uncond:
        wanted.append(conditionings.uncond(step))
    scaled, timestep = x * c_in(sigma), plan.timestep(sigma)
    outputs: list[Tensor] = yield [Predict(model.key, scaled, timestep, one) for one in wanted]
    denoised = [to_denoised(model.prediction, x, output, sigma) for output in outputs]
    if not needs_uncond:
        return denoised[0]
    weights = [weight for weight, _ in parts]
    return combine(list(zip(denoised[:-1], weights, strict=True)), denoised[-1], cfg_scale)
