"""The UNet as one pass of one job sees it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdserver.calls import Conditioning, DeviceCall, Predict
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

    def predict(
        self, x: Tensor, sigma: float, conditionings: Sequence[Conditioning], step: int
    ) -> list[DeviceCall]:
        """The calls for a row of each conditioning at (x, sigma), in the evaluation `step` (0 is first)."""
        scaled = x * c_in(sigma)
        if self.concat is not None:
            scaled = torch.cat([scaled, self.concat])
        timestep = self.plan.timestep(sigma)
        return [Predict(self.model.model, scaled, timestep, one, step) for one in conditionings]
