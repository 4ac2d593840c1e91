"""The refiner: another checkpoint that takes over in mid-sampling."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from sdserver.calls import Call, DeviceCall, UseModel
from sdserver.errors import EngineFailure
from sdserver.jobs.job import Refiner, Sampling, Start
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Texts, Wording, condition
from sdserver.programs.findings import Findings
from sdserver.programs.network import Network
from sdserver.sampling.plan import make_plan

LAST_TIMESTEP = 999
TIMESTEPS = 1000


@dataclass(frozen=True, slots=True)
class Takeover:
    """A refiner that has not taken over yet, and all it needs to do so.

    Attributes:
        sampling, start, wording: the pass's.
        texts, findings: the job's.
    """

    refiner: Refiner
    sampling: Sampling
    start: Start | None
    wording: Wording
    texts: Texts
    findings: Findings

    def is_due(self, network: Network, sigma: float, share: float) -> bool:
        """Whether it takes over before the evaluation at `sigma`; `share` of the steps are done.

        The share of the noise schedule is that of the model's nearest noise level.
        """
        if self.refiner.model.checkpoint == network.model.model.checkpoint:
            return False
        if not self.refiner.by_steps:
            share = (LAST_TIMESTEP - _timestep(network, sigma)) / TIMESTEPS
        return share >= self.refiner.switch_at

    def take_over(self, network: Network) -> Generator[Call | list[DeviceCall], Any, Network]:
        """Load the refiner and encode the prompt with it. The walk goes on over the same levels."""
        model: ModelFacts = yield UseModel(self.refiner.model)
        if model.inpainting and network.concat is None:
            raise EngineFailure("An inpainting checkpoint can refine only what another one began.")
        self.findings.refined = True
        conditionings = yield from condition(model, self.wording, self.texts)
        if network.plan.sampler.kind == "timestep":
            plan = replace(network.plan, prediction=model.prediction)
        else:
            plan = make_plan(self.sampling, model, self.start)
        return Network(model, plan, conditionings, network.concat if model.inpainting else None)


def _timestep(network: Network, sigma: float) -> int:
    """Where in the model's noise schedule a sigma is, as A1111 sees it.

    Samplers that walk sigmas look for the nearest level, the others know their timestep.
    """
    plan = network.plan
    if plan.sampler.kind == "timestep":
        return int(plan.timestep(sigma))
    distances = [abs(level - sigma) for level in plan.table.sigmas]
    return distances.index(min(distances))
