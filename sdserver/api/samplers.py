"""Samplers and schedules as the wire and the infotext show them."""

from dataclasses import dataclass
from typing import Final

from sdserver.api.schemas import SamplerItem, SchedulerItem
from sdserver.errors import UnknownSampler
from sdserver.sampling import registry

_CHURNING: Final = frozenset({"Euler", "Heun", "DPM2"})
_SCALING_NOISE: Final = _CHURNING | {
    "DPM fast",
    "DPM2 a",
    "DPM++ 2S a",
    "DPM++ SDE",
    "DPM++ 2M SDE",
    "DPM++ 2M SDE Heun",
    "DPM++ 3M SDE",
}
_WITH_ETA: Final = _SCALING_NOISE - _CHURNING | {"Euler a", "DPM adaptive", "DDIM", "DDIM CFG++"}


@dataclass(frozen=True, slots=True)
class ChosenSampler:
    """What the sampler's and schedule's names in a request mean.

    Attributes:
        name: canonical.
        label: the schedule that was asked for.
        effective: the schedule that this comes to.
        is_timestep: walks the model's own timesteps, so schedules have no effect.
        evaluations: calls of the denoiser per step, about.
        takes_eta, takes_churn, takes_noise_scale: which of AUTOMATIC1111's settings reach it there.
        default_rho: of the effective schedule, None if it has none.
    """

    name: str
    label: str
    effective: str
    is_timestep: bool
    evaluations: int
    uses_ensd: bool
    discards_penultimate: bool
    takes_eta: bool
    takes_churn: bool
    takes_noise_scale: bool
    default_rho: float | None


def choose(sampler_name: str, scheduler: str | None) -> ChosenSampler:
    """Resolve the names in a request.

    Raises:
        UnknownSampler: there is no sampler or schedule of that name.
    """
    sampler, label, effective = registry.resolve(sampler_name, scheduler)
    rho = registry.schedule_named(effective).default_rho
    return ChosenSampler(
        name=sampler.name,
        label=label,
        effective=effective,
        is_timestep=sampler.kind == "timestep",
        evaluations=2 if sampler.second_order else 1,
        uses_ensd=sampler.uses_ensd,
        discards_penultimate=sampler.discard_penultimate,
        takes_eta=sampler.name in _WITH_ETA,
        takes_churn=sampler.name in _CHURNING,
        takes_noise_scale=sampler.name in _SCALING_NOISE,
        default_rho=rho if rho != -1 else None,
    )


def choose_as_a1111(sampler_name: str, scheduler: str | None) -> ChosenSampler:
    """As `choose`, but names that are not known mean DPM++ 2M and Automatic, as in AUTOMATIC1111."""
    try:
        return choose(sampler_name, scheduler)
    except UnknownSampler:
        pass
    for name, schedule in ((registry.DEFAULT_SAMPLER, scheduler), (sampler_name, registry.AUTOMATIC)):
        try:
            return choose(name, schedule)
        except UnknownSampler:
            continue
    return choose(registry.DEFAULT_SAMPLER, registry.AUTOMATIC)


def sampler_items() -> list[SamplerItem]:
    """For GET samplers."""
    return [
        SamplerItem(name=sampler.name, aliases=list(sampler.aliases), options=sampler.options)
        for sampler in registry.SAMPLERS
    ]


def scheduler_items() -> list[SchedulerItem]:
    """For GET schedulers."""
    return [
        SchedulerItem(
            name=schedule.name,
            label=schedule.label,
            aliases=list(schedule.aliases) or None,
            default_rho=schedule.default_rho,
            need_inner_model=schedule.need_inner_model,
        )
        for schedule in registry.SCHEDULES
    ]
