"""From a job's sampling to a run: the levels to walk, the evaluations to expect, the generator."""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from sdserver.errors import InvalidField
from sdserver.jobs.job import Sampling, Start
from sdserver.jobs.model import ModelFacts, PredictionType
from sdserver.sampling import dpm_adaptive, dpm_samplers, samplers, sigmas, timestep_samplers, unipc
from sdserver.sampling.guidance import Guided
from sdserver.sampling.levels import Levels, model_levels
from sdserver.sampling.noise import ImageNoise
from sdserver.sampling.prediction import consistent, from_v, to_denoised
from sdserver.sampling.registry import Sampler, effective_schedule, sampler_named
from sdserver.sampling.run import AnyEvaluations, Evaluations, SigmaRun, StepNoise, TimestepRun
from sdserver.sampling.sigmas import OLD_KARRAS_LIMITS, Grid, SigmaTable
from sdserver.sampling.start import Mix, cut

PLANS: Final = 32
"""That are kept: most requests differ in what a plan does not hang on."""

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
        "DPM adaptive": dpm_adaptive.dpm_adaptive,
        "Restart": samplers.restart,
        "LCM": samplers.lcm,
    }
)

TIMESTEP_SAMPLERS: MappingProxyType[str, Callable[[Tensor, TimestepRun], AnyEvaluations]] = MappingProxyType(
    {
        "DDIM": timestep_samplers.ddim,
        "DDIM CFG++": timestep_samplers.ddim_cfgpp,
        "PLMS": timestep_samplers.plms,
        "UniPC": unipc.unipc,
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one image is going to be denoised.

    Attributes:
        prediction: what the network outputs.
        table: the model's sigmas, and how they become timesteps.
        levels: the model's own noise levels.
        sigmas: what a sampler that walks sigmas walks, descending; empty for the others.
        tree_limits: the smallest positive and the largest sigma of the whole schedule, of which
            `sigmas` may be the end only.
        timesteps: ascending, for a sampler that walks timesteps; empty for the others.
        mix: how the first x is made.
        steps: AUTOMATIC1111's count of the steps that are run (not of evaluations): what shares of
            the run, such as `Guidance.skip_early`, are shares of. Second-order samplers count double.
        evaluations: how often the denoiser will be asked. "DPM adaptive" decides that on its way: here
            it is the number for data of variance 1.
        own_timesteps: for a sampler that walks timesteps, each by the sigma that it yields.
    """

    sampling: Sampling
    sampler: Sampler
    prediction: PredictionType
    table: SigmaTable
    levels: Levels
    sigmas: tuple[float, ...]
    tree_limits: tuple[float, float]
    timesteps: tuple[int, ...]
    from_picture: bool
    mix: Mix
    steps: int
    evaluations: int = 0
    own_timesteps: Mapping[float, float] = field(default_factory=dict)

    def timestep(self, sigma: float) -> float:
        """The network's timestep (0..999, may be fractional) for a sigma that the run yields."""
        own = self.own_timesteps.get(sigma)
        return self.table.timestep(sigma) if own is None else own

    def initial(self, noise: Tensor, latent: Tensor | None = None) -> Tensor:
        """The x that `start` takes.

        Args:
            noise: the image's first noise, (channels, height, width), variance 1.
            latent: the picture's, of the same shape; just where the plan was made with a `Start`. Where
                no step is to be run it comes back unchanged, but for the extra noise.

        Raises:
            ValueError: a latent is missing or out of place.
        """
        return self.mix(noise, latent)

    def denoised(self, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """The denoised latent, of the shape of `x`.

        Args:
            x: the noisy latent in the variance-exploding frame, before scaling by `c_in`.
            output: what the network said for `x * c_in(sigma)` at `timestep(sigma)`.
            sigma: the noise level of `x`, as the run yielded it.

        AUTOMATIC1111's LCM takes every output for an epsilon, and its timestep samplers take v apart at
        the whole part of a fractional timestep.
        """
        if self.sampler.lcm:
            return consistent(x, to_denoised("epsilon", x, output, sigma), self.timestep(sigma))
        if self.sampler.kind == "timestep" and self.prediction == "v":
            level = int(self.timestep(sigma))
            return from_v(x, output, sigma, self.levels.roots[level], self.levels.rests[level])
        return to_denoised(self.prediction, x, output, sigma)

    def start(self, x: Tensor, noise: ImageNoise) -> AnyEvaluations:
        """The run as a generator: yields (x, sigma), is sent the denoised latent, returns the last x.

        A sampler that `wants_uncond` is sent a `guidance.Guided`, all others the guided latent alone.

        Args:
            x: (channels, height, width): what `initial` returned. Samplers that walk timesteps take
                and return it in the variance-preserving frame, the others in the exploding one.
            noise: the image's noise, whose first draw was taken.
        """
        if self.evaluations == 0:
            return _standing_still(x)
        return _generator(self, x, _step_noise(self, noise))


@lru_cache(maxsize=PLANS)
def make_plan(sampling: Sampling, facts: ModelFacts, start: Start | None = None) -> Plan:
    """Work out a run, from noise or, with `start`, from a picture.

    Raises:
        UnknownSampler: the sampler or schedule is not in the registry.
        InvalidField: the steps or the schedule's limits make no sense.
    """
    if sampling.steps < 1:
        raise InvalidField("steps", "steps must be at least 1")
    sampler = sampler_named(sampling.sampler)
    levels = model_levels(facts.alphas, sampling.noise_schedule, sampling.downcast_alphas)
    make = _timestep_plan if sampler.kind == "timestep" else _sigma_plan
    plan = make(sampling, sampler, levels, facts, start)
    return replace(plan, evaluations=_count_evaluations(plan))


def ddim_timesteps(steps: int, count: int) -> tuple[int, ...]:
    """AUTOMATIC1111's timesteps, ascending: every `count // steps`-th one, shifted up by one.

    There may be more of them than `steps`. Raises InvalidField if `steps` is out of range.
    """
    if not 1 <= steps <= count:
        raise InvalidField("steps", f"steps must be from 1 to {count} with this sampler")
    return tuple(min(timestep + 1, count - 1) for timestep in range(0, count, count // steps))


def _sigma_plan(
    sampling: Sampling, sampler: Sampler, levels: Levels, facts: ModelFacts, start: Start | None
) -> Plan:
    part = cut(sampling.steps, start)
    table = sigmas.lcm_table(levels) if sampler.lcm else sigmas.model_table(levels, sampling.quantize)
    whole: tuple[float, ...] = (0.0,)
    if part.schedule_steps:
        schedule = effective_schedule(sampler, sampling.schedule)
        grid = _grid(sampling, part.schedule_steps, schedule.default_rho, table, facts.family == "sdxl")
        whole = sigmas.build(schedule.name, grid, sampling.discard_penultimate or sampler.discard_penultimate)
    walked = whole[max(part.schedule_steps - part.encoded - 1, 0) :]
    if start is None:
        scale = math.sqrt(1 + walked[0] ** 2) if sampling.scale_noise_as_sgm else walked[0]
        mix = Mix(0.0, scale)
    else:
        mix = Mix(1.0, walked[0], start.extra_noise, start.noise_multiplier)
    positive = [sigma for sigma in whole if sigma > 0] or [table.sigmas[0]]
    return Plan(
        sampling=sampling,
        sampler=sampler,
        prediction=facts.prediction,
        table=table,
        levels=levels,
        sigmas=walked,
        tree_limits=(min(positive), max(positive)),
        timesteps=(),
        from_picture=start is not None,
        mix=mix,
        steps=(part.encoded + 1) * (2 if sampler.second_order else 1),
    )


def _timestep_plan(
    sampling: Sampling, sampler: Sampler, levels: Levels, facts: ModelFacts, start: Start | None
) -> Plan:
    part = cut(sampling.steps, start)
    timesteps: tuple[int, ...] = ()
    if part.schedule_steps:
        # AUTOMATIC1111 counts the step that is to be discarded, and keeps it.
        timesteps = ddim_timesteps(part.schedule_steps + sampling.discard_penultimate, len(levels.alphas))
    mix = Mix(0.0, 1.0)
    if start is not None:
        root, rest = 1.0, 0.0
        if timesteps:
            first, timesteps = timesteps[part.encoded], timesteps[: part.encoded]
            root, rest = levels.roots[first], levels.rests[first]
        mix = Mix(root, rest, start.extra_noise * root, start.noise_multiplier)
    plan = Plan(
        sampling=sampling,
        sampler=sampler,
        prediction=facts.prediction,
        table=sigmas.model_table(replace(levels, halved=False)),
        levels=levels,
        sigmas=(),
        tree_limits=(0.0, 0.0),
        timesteps=timesteps,
        from_picture=start is not None,
        mix=mix,
        steps=(part.encoded + 1) * (2 if sampler.second_order else 1),
    )
    return replace(plan, own_timesteps=MappingProxyType(_own_timesteps(plan)))


def _own_timesteps(plan: Plan) -> dict[float, float]:
    if plan.sampler.name == "UniPC" and plan.timesteps:
        return {level.sigma: level.timestep for level in unipc.path(_timestep_run(plan, _no_noise))}
    return {plan.levels.sigma(timestep): float(timestep) for timestep in plan.timesteps}


def _grid(sampling: Sampling, steps: int, default_rho: float, table: SigmaTable, sdxl: bool) -> Grid:
    low, high = OLD_KARRAS_LIMITS if sampling.old_karras else (table.sigmas[0], table.sigmas[-1])
    return Grid(
        steps=steps,
        table=table,
        sigma_min=sampling.sigma_min or low,
        sigma_max=sampling.sigma_max or high,
        rho=sampling.rho or default_rho,
        sdxl=sdxl,
        beta_alpha=sampling.beta_alpha,
        beta_beta=sampling.beta_beta,
    )


def _generator(plan: Plan, x: Tensor, noise: StepNoise) -> AnyEvaluations:
    if plan.sampler.kind == "timestep":
        return TIMESTEP_SAMPLERS[plan.sampler.name](x, _timestep_run(plan, noise))
    if len(plan.sigmas) < 2:
        return _standing_still(x)
    return SIGMA_SAMPLERS[plan.sampler.name](x, _sigma_run(plan, noise))


def _timestep_run(plan: Plan, noise: StepNoise) -> TimestepRun:
    sampling = plan.sampling
    return TimestepRun(plan.timesteps, plan.levels, noise, sampling.eta, sampling.unipc, plan.from_picture)


def _sigma_run(plan: Plan, noise: StepNoise) -> SigmaRun:
    sampling, table = plan.sampling, plan.table.sigmas
    return SigmaRun(
        sigmas=plan.sigmas,
        noise=noise,
        steps=len(plan.sigmas) - 1 if plan.from_picture else sampling.steps,
        # The last sigma may be 0, which solvers in log sigma cannot reach.
        sigma_min=plan.sigmas[-2] if plan.from_picture else table[0],
        sigma_max=plan.sigmas[0] if plan.from_picture else table[-1],
        eta=sampling.eta,
        churn=sampling.churn,
        churn_min=sampling.churn_min,
        churn_max=sampling.churn_max,
        noise_scale=sampling.noise_scale,
    )


def _step_noise(plan: Plan, noise: ImageNoise) -> StepNoise:
    if plan.sampler.brownian:
        limits = plan.tree_limits
        if noise.shares_path:
            # k-diffusion's own, as A1111 leaves it the making of such a path.
            walked = [sigma for sigma in plan.sigmas if sigma > 0]
            limits = (min(walked), max(walked))
        return noise.brownian(*limits)

    def draw(_sigma: float, _sigma_next: float) -> Tensor:
        return noise.next()

    return draw


def _no_noise(_sigma: float, _sigma_next: float) -> Tensor:
    return torch.zeros(1, 1, 9)


def _standing_still(x: Tensor) -> Generator[tuple[Tensor, float], Tensor, Tensor]:
    """The run that has no steps."""
    yield from ()
    return x


def _count_evaluations(plan: Plan) -> int:
    """Run the sampler on a few numbers of a normal distribution: true for every sampler by construction."""
    highest = plan.sigmas[0] if plan.sigmas else 1.0
    x = torch.linspace(-2, 2, 9).reshape(1, 1, 9) * math.sqrt(1 + highest**2)
    run = _generator(plan, x, _no_noise)
    count = 0
    try:
        x, sigma = next(run)
        while True:
            count += 1
            denoised = x / (1 + sigma**2)
            x, sigma = run.send(Guided(denoised, denoised) if plan.sampler.wants_uncond else denoised)
    except StopIteration:
        return count
