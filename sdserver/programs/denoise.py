"""Denoising: drives a sampler and answers each of its evaluations."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdserver.calls import Call, DeviceCall, Interrupted, Report
from sdserver.jobs.model import Model
from sdserver.programs.guide import Guide
from sdserver.programs.latent_masks import LatentMask
from sdserver.programs.network import Network
from sdserver.programs.refiner import Takeover
from sdserver.sampling.run import AnyEvaluations


@dataclass(frozen=True, slots=True, eq=False)
class Denoised:
    """What sampling ended with.

    Attributes:
        model: what it ended on: the refiner, if that took over.
        evaluations: how many were done.
        interrupted: it ended early, on request.
    """

    latent: Tensor
    model: Model
    evaluations: int
    interrupted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Denoiser:
    """Answers the evaluations of one pass.

    Attributes:
        network: at the beginning.
        takeover: of a refiner, None where there is none.
        mask: what is kept of a picture, None where nothing is.
        before: evaluations that earlier passes did.
        total: evaluations in all passes, as far as known.
    """

    network: Network
    guide: Guide
    takeover: Takeover | None
    mask: LatentMask | None
    before: int
    total: int

    def report(self, step: int, model: Model, latest: Tensor) -> Report:
        """That `step` evaluations of this pass are done, and what came of the last, on that model."""
        done = self.before + step
        return Report(done, max(done, self.total), model, latest)


def denoise(sampler: AnyEvaluations, denoiser: Denoiser) -> Generator[Call | list[DeviceCall], Any, Denoised]:
    """Run a sampler to its end. One evaluation is one call of the network per conditioning.

    On interruption the last denoised latent stands for the result, as in AUTOMATIC1111.

    Raises:
        Interrupted: before the first evaluation was done.
    """
    guide, mask, network = denoiser.guide, denoiser.mask, denoiser.network
    latest: Tensor | None = None
    step = 0
    try:
        x, sigma = next(sampler)
        while True:
            takeover = denoiser.takeover
            if takeover is not None and takeover.is_due(network, sigma, step / network.plan.steps):
                network = yield from takeover.take_over(network)
            if mask is None:
                guided = yield from guide.evaluate(network, x, sigma, step)
            else:
                guided = yield from mask.evaluate(guide, network, x, sigma, step)
            latest = guided.denoised
            step += 1
            yield denoiser.report(step, network.model.model, latest)
            x, sigma = sampler.send(guided if network.plan.sampler.wants_uncond else latest)
    except StopIteration as end:
        return Denoised(end.value, network.model.model, step, interrupted=False)
    except Interrupted:
        if latest is None:
            raise
        return Denoised(latest, network.model.model, step, interrupted=True)
