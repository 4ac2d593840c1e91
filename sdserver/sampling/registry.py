"""The samplers and schedules there are, by name. Imports no torch: the front process reads it too.

Names, aliases, options and order are those of AUTOMATIC1111's `GET /sdapi/v1/samplers` and
`/schedulers`; a sampler is listed only if it can be run.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sdserver.errors import UnknownSampler

AUTOMATIC = "Automatic"
DEFAULT_SAMPLER = "DPM++ 2M"
SHOWN_CHARACTERS = 64

SamplerKind = Literal["sigma", "timestep"]


@dataclass(frozen=True, slots=True)
class Sampler:
    """One row of the table of samplers.

    Attributes:
        kind: whether it walks a schedule of sigmas or the model's own timesteps; schedules have no
            effect on the latter.
        default_schedule: name of the schedule that "Automatic" stands for, None for uniform timesteps.
        second_order: evaluates the denoiser twice a step.
        uses_ensd: the seed delta (ENSD) changes its pictures and belongs into the infotext.
        brownian: draws its noise from a Brownian tree instead of the image's generator.
        discard_penultimate: the last sigma but one of its schedule is dropped.
        solver: variant of the algorithm, "" if there is only one.
        lcm: evaluates the denoiser only at the 50 timesteps of latent consistency models.
        wants_uncond: is sent a `guidance.Guided`, which holds the negative prompt's denoised latent too.
        guidance_factor: what the job's cfg_scale is multiplied by before it guides.
    """

    name: str
    aliases: tuple[str, ...]
    kind: SamplerKind = "sigma"
    default_schedule: str | None = None
    second_order: bool = False
    uses_ensd: bool = False
    brownian: bool = False
    discard_penultimate: bool = False
    solver: str = ""
    lcm: bool = False
    wants_uncond: bool = False
    guidance_factor: float = 1.0

    @property
    def options(self) -> dict[str, str]:
        """The `options` of `GET /sdapi/v1/samplers`: strings, in AUTOMATIC1111's order."""
        flags = {
            "scheduler": self.default_schedule or "",
            "discard_next_to_last_sigma": "True" if self.discard_penultimate else "",
            "uses_ensd": "True" if self.uses_ensd else "",
            "second_order": "True" if self.second_order else "",
            "brownian_noise": "True" if self.brownian else "",
            "solver_type": self.solver,
        }
        return {key: value for key, value in flags.items() if value}


@dataclass(frozen=True, slots=True)
class Schedule:
    """One row of the table of schedules.

    Attributes:
        default_rho: the schedule's rho, -1 if it has none.
        need_inner_model: it reads the model's table of sigmas, not only its ends.
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    default_rho: float = -1.0
    need_inner_model: bool = False


class Resolved(NamedTuple):
    """What a requested pair of names means.

    Attributes:
        schedule: label of the schedule that was asked for, "Automatic" if none was.
        effective: label of the schedule that "Automatic" comes to ("Automatic" where the sampler
            has no schedule of its own): what the infotext shows.
    """

    sampler: Sampler
    schedule: str
    effective: str


SAMPLERS: tuple[Sampler, ...] = (
    Sampler("DPM++ 2M", ("k_dpmpp_2m",), default_schedule="karras"),
    Sampler("DPM++ SDE", ("k_dpmpp_sde",), default_schedule="karras", second_order=True, brownian=True),
    Sampler("DPM++ 2M SDE", ("k_dpmpp_2m_sde",), default_schedule="exponential", brownian=True),
    Sampler(
        "DPM++ 2M SDE Heun",
        ("k_dpmpp_2m_sde_heun",),
        default_schedule="exponential",
        brownian=True,
        solver="heun",
    ),
    Sampler("DPM++ 2S a", ("k_dpmpp_2s_a",), default_schedule="karras", second_order=True, uses_ensd=True),
    Sampler(
        "DPM++ 3M SDE",
        ("k_dpmpp_3m_sde",),
        default_schedule="exponential",
        brownian=True,
        discard_penultimate=True,
    ),
    Sampler("Euler a", ("k_euler_a", "k_euler_ancestral"), uses_ensd=True),
    Sampler("Euler", ("k_euler",)),
    Sampler("LMS", ("k_lms",)),
    Sampler("Heun", ("k_heun",), second_order=True),
    Sampler("DPM2", ("k_dpm_2",), default_schedule="karras", second_order=True, discard_penultimate=True),
    Sampler(
        "DPM2 a",
        ("k_dpm_2_a",),
        default_schedule="karras",
        second_order=True,
        uses_ensd=True,
        discard_penultimate=True,
    ),
    Sampler("DPM fast", ("k_dpm_fast",), uses_ensd=True),
    Sampler("DPM adaptive", ("k_dpm_ad",), uses_ensd=True),
    Sampler("Restart", ("restart",), default_schedule="karras", second_order=True),
    Sampler("DDIM", ("ddim",), kind="timestep"),
    # A1111 maps cfg_scale 0 to 12.5 to the method's range, 0 to 1.
    Sampler("DDIM CFG++", ("ddim_cfgpp",), kind="timestep", wants_uncond=True, guidance_factor=1 / 12.5),
    Sampler("PLMS", ("plms",), kind="timestep"),
    Sampler("UniPC", ("unipc",), kind="timestep"),
    Sampler("LCM", ("k_lcm",), lcm=True),
)

SCHEDULES: tuple[Schedule, ...] = (
    Schedule("automatic", AUTOMATIC),
    Schedule("uniform", "Uniform", need_inner_model=True),
    Schedule("karras", "Karras", default_rho=7.0),
    Schedule("exponential", "Exponential"),
    Schedule("polyexponential", "Polyexponential", default_rho=1.0),
    Schedule("sgm_uniform", "SGM Uniform", ("SGMUniform",), need_inner_model=True),
    Schedule("kl_optimal", "KL Optimal"),
    Schedule("align_your_steps", "Align Your Steps"),
    Schedule("simple", "Simple", need_inner_model=True),
    Schedule("normal", "Normal", need_inner_model=True),
    Schedule("ddim", "DDIM", need_inner_model=True),
    Schedule("beta", "Beta", need_inner_model=True),
)


def sampler_named(name: str) -> Sampler:
    """The sampler of that canonical name. Raises UnknownSampler."""
    for sampler in SAMPLERS:
        if sampler.name == name:
            return sampler
    raise _unknown_sampler(name)


def schedule_named(name: str) -> Schedule:
    """The schedule of that label, name or alias, whatever its case. Raises UnknownSampler."""
    for fold in (_as_is, str.casefold):
        for schedule in SCHEDULES:
            if fold(name) in map(fold, _names_of(schedule)):
                return schedule
    known = {alias.casefold(): schedule.label for schedule in SCHEDULES for alias in _names_of(schedule)}
    raise UnknownSampler(f"Scheduler not found: {_with_hint(name, known)}")


def resolve(sampler_name: str | None, scheduler: str | None) -> Resolved:
    """Find the sampler and schedule meant by the two fields of a request.

    The sampler's name is tried as it is, then without the longest suffix that names a schedule
    ("DPM++ 2M Karras"), then both again by alias and without regard to case. A given `scheduler` beats
    the suffix. No sampler name (None or "") means AUTOMATIC1111's default. AUTOMATIC1111 itself takes
    DPM++ 2M for every name that it does not know, and Automatic for every such scheduler.

    Raises:
        UnknownSampler: no such sampler or scheduler; the message names the nearest one.
    """
    sampler, suffix = _find_sampler(sampler_name or DEFAULT_SAMPLER)
    schedule = schedule_named(scheduler) if scheduler else suffix
    label = AUTOMATIC if schedule is None else schedule.label
    return Resolved(sampler, label, effective_schedule(sampler, label).label)


def effective_schedule(sampler: Sampler, schedule: str) -> Schedule:
    """The schedule that `schedule` (a label) comes to with this sampler. Raises UnknownSampler."""
    if schedule == AUTOMATIC and sampler.default_schedule is not None:
        return schedule_named(sampler.default_schedule)
    return schedule_named(schedule)


def _find_sampler(name: str) -> tuple[Sampler, Schedule | None]:
    for fold, names_of in ((_as_is, _canonical_name), (str.casefold, _all_names)):
        table = {fold(known): sampler for sampler in SAMPLERS for known in names_of(sampler)}
        if fold(name) in table:
            return table[fold(name)], None
        head, schedule = _split_suffix(name, fold)
        if fold(head) in table:
            sampler = table[fold(head)]
            is_default = schedule is not None and schedule.name == sampler.default_schedule
            return sampler, None if is_default else schedule
    raise _unknown_sampler(name)


def _split_suffix(name: str, fold: Callable[[str], str]) -> tuple[str, Schedule | None]:
    """Cut the longest " <schedule>" or "_<schedule>" off the end of a sampler's name."""
    best: tuple[str, Schedule | None] = (name, None)
    for schedule in SCHEDULES:
        for known in _names_of(schedule):
            cut = len(name) - len(known) - 1
            if cut < 0 or fold(name[cut + 1 :]) != fold(known) or name[cut] not in " _":
                continue
            if cut < len(best[0]):
                best = (name[:cut], schedule)
    return best


def _as_is(name: str) -> str:
    return name


def _canonical_name(sampler: Sampler) -> tuple[str, ...]:
    return (sampler.name,)


def _all_names(sampler: Sampler) -> tuple[str, ...]:
    return (sampler.name, *sampler.aliases)


def _names_of(schedule: Schedule) -> tuple[str, ...]:
    return (schedule.label, schedule.name, *schedule.aliases)


def _unknown_sampler(name: str) -> UnknownSampler:
    known = {alias.casefold(): sampler.name for sampler in SAMPLERS for alias in _all_names(sampler)}
    return UnknownSampler(f"Sampler not found: {_with_hint(name, known)}")


def _with_hint(name: str, known: Mapping[str, str]) -> str:
    """The name, cut and quoted, with the nearest of the known ones (folded to canonical)."""
    shown = name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "..."
    nearest = difflib.get_close_matches(name[:SHOWN_CHARACTERS].casefold(), known, n=1, cutoff=0.4)
    return f"{shown!r}; did you mean {known[nearest[0]]!r}?" if nearest else repr(shown)
