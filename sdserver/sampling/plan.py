"""From a job's sampling to a run: the levels to walk, the evaluations to expect, the generator."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from sdserver.errors import InvalidField
from sdserver.jobs.job import Sampling
from sdserver.jobs.model import ModelFacts
from sdserver.sampling import dpm_samplers, samplers, sigmas, timestep_samplers, unipc
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.registry import Sampler, Schedule, effective_schedule, sampler_named
from sdserver.sampling.run import Evaluations, SigmaRun, StepNoise, TimestepRun
from sdserver.sampling.sigmas import Grid, SigmaTable

SIGMA_SAMPLERS: MappingProxyType[str, Callable[[Tensor, SigmaRun], Evaluations]] = MappingProxyType(
    {
        "DPM++ 2M": dpm_samplers.dpmpp_2m,
        "DPM++ SDE": dpm_samplers.dpmpp_sde,
        "DPM++ 2M SDE": dpm_samplers.dpmpp_2m_sde,
        "DPM++ 2M SDE Heun": dpm_samplers.dpmpp_2m_sde_heun,
        "DPM++ 2S a": dpm_samplers.dpmpp_2s_ancestral,
        "DPM++ 3M SDE": dpm_samplers.dpmpp_3m_sde,
        "Euler a": samplers.euler_ancestral,
        "Euler": samplers.euler,
        "LMS": samplers.lms,
        "Heun": samplers.heun,
        "DPM2": samplers.dpm_2,
        "DPM2 a": samplers.dpm_2_ancestral,
        "DPM fast": dpm_samplers.dpm_fast,
        "Restart": samplers.restart,
        "LCM": samplers.lcm,
    }
)

TIMESTEP_SAMPLERS: MappingProxyType[str, Callable[[Tensor, TimestepRun], Evaluations]] = MappingProxyType(
    {
        "DDIM": timestep_samplers.ddim,
        "PLMS": timestep_samplers.plms,
        "UniPC": unipc.unipc,
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one image is going to be denoised.

    Attributes:
        sigmas: the schedule of a sampler that walks sigmas, descending; empty for the others.
        timesteps: ascending, for a sampler that walks timesteps; empty for the others.
        initial_scale: factor from noise of variance 1 to the x that `start` takes.
        evaluations: how often the denoiser will be asked.
    """

    sampling: Sampling
    sampler: Sampler
    table: SigmaTable
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    timesteps: tuple[int, ...]
    initial_scale: float
    evaluations: int

    def timestep(self, sigma: float) -> float:
        """The network's timestep (0..999, may be fractional) for a sigma that the run yields."""
        return self.table.timestep(sigma)

    def start(self, x: Tensor, noise: ImageNoise) -> Evaluations:
        """The run as a generator: yields (x, sigma), is sent the denoised latent, returns the last x.

        Args:
            x: (channels, height, width): noise times `initial_scale`. Samplers that walk timesteps take
                and return it in the variance-preserving frame, the others in the exploding one.
            noise: the image's noise, whose first draw was taken.
        """
        return _generator(self, x, _step_noise(self, noise))


def make_plan(sampling: Sampling, facts: ModelFacts) -> Plan:
    """Work out a run.

    Raises:
        UnknownSampler: the sampler or schedule is not in the registry.
        InvalidField: the steps or the schedule's limits make no sense.
    """
    sampler = sampler_named(sampling.sampler)
    schedule = effective_schedule(sampler, sampling.schedule)
    alphas = tuple(torch.tensor(facts.alphas, dtype=torch.float32).tolist())
    table = sigmas.lcm_table(alphas) if sampler.lcm else sigmas.model_table(alphas)
    walked: tuple[float, ...] = ()
    timesteps: tuple[int, ...] = ()
    if sampler.kind == "timestep":
        timesteps = ddim_timesteps(sampling.steps, len(alphas))
    else:
        grid = _grid(sampling, schedule, table, sdxl=facts.family == "sdxl")
        discard = sampling.discard_penultimate or sampler.discard_penultimate
        walked = sigmas.build(schedule.name, grid, discard)
    scale = walked[0] if walked else 1.0
    plan = Plan(sampling, sampler, table, alphas, walked, timesteps, scale, evaluations=0)
    return replace(plan, evaluations=_count_evaluations(plan))


def ddim_timesteps(steps: int, count: int) -> tuple[int, ...]:
    """AUTOMATIC1111's timesteps, ascending: every `count // steps`-th one, shifted up by one.

    There may be more of them than `steps`. Raises InvalidField if `steps` is out of range.
    """
    if not 1 <= steps <= count:
        raise InvalidField("steps", f"steps must be from 1 to {count} with this sampler")
    return tuple(min(timestep + 1, count - 1) for timestep in range(0, count, count // steps))


def _grid(sampling: Sampling, schedule: Schedule, table: SigmaTable, sdxl: bool) -> Grid:
    return Grid(
        steps=sampling.steps,
        table=table,
        sigma_min=sampling.sigma_min or table.sigmas[0],
        sigma_max=sampling.sigma_max or table.sigmas[-1],
        rho=sampling.rho or schedule.default_rho,
        sdxl=sdxl,
    )


def _generator(plan: Plan, x: Tensor, noise: StepNoise) -> Evaluations:
    sampling = plan.sampling
    if plan.sampler.kind == "timestep":
        run = TimestepRun(plan.timesteps, plan.alphas, plan.table.sigmas, noise, sampling.eta)
        return TIMESTEP_SAMPLERS[plan.sampler.name](x, run)
    return SIGMA_SAMPLERS[plan.sampler.name](
        x,
        SigmaRun(
            sigmas=plan.sigmas,
            noise=noise,
            steps=sampling.steps,
            sigma_min=plan.table.sigmas[0],
            sigma_max=plan.table.sigmas[-1],
            eta=sampling.eta,
            churn=sampling.churn,
            churn_min=sampling.churn_min,
            churn_max=sampling.churn_max,
            noise_scale=sampling.noise_scale,
        ),
    )


def _step_noise(plan: Plan, noise: ImageNoise) -> StepNoise:
    if plan.sampler.brownian:
        positive = [sigma for sigma in plan.sigmas if sigma > 0]
        return noise.brownian(min(positive), max(positive))

    def draw(_sigma: float, _sigma_next: float) -> Tensor:
        return noise.next()

    return draw


def _count_evaluations(plan: Plan) -> int:
    """Run the sampler on a single number: true for every sampler by construction."""
    nothing = torch.zeros(1, 1, 1)
    run = _generator(plan, nothing, lambda _sigma, _sigma_next: nothing)
    count = 0
    try:
        next(run)
        while True:
            count += 1
            run.send(nothing)
    except StopIteration:
        return count
