"""The UNet as one pass of one job sees it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdserver.calls import Conditioning, Predict
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Conditionings
from sdserver.sampling.plan import Plan
from sdserver.sampling.prediction import c_in


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A checkpoint's UNet, what conditions it, and its noise levels.

    Attributes:
        plan: knows the timesteps of sigmas and what the network's outputs mean.
        concat: what an inpainting checkpoint takes beside the latent, (5, h, w); None for others.
    """

    model: ModelFacts
    plan: Plan
    conditionings: Conditionings
    concat: Tensor | None = None

    def predict(self, x: Tensor, sigma: float, conditioning: Conditioning, step: int) -> Predict:
        """The call for one row at (x, sigma), in the evaluation `step`, counted from 0."""
        scaled = x * c_in(sigma)
        if self.concat is not None:
            scaled = torch.cat([scaled, self.concat])
        return Predict(self.model.model, scaled, self.plan.timestep(sigma), conditioning, step)
