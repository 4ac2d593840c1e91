"""How a pass is sampled and guided, by a request's fields and the options."""

import math
from typing import Literal, cast

from sdserver.api.options import Snapshot
from sdserver.api.requests import Request
from sdserver.api.samplers import ChosenSampler
from sdserver.jobs.job import Guidance, NoiseSchedule, Padding, Sampling, UniPC

_Variant = Literal["bh1", "bh2", "vary_coeff"]
_SkipType = Literal["time_uniform", "time_quadratic", "logSNR"]


def sampling_of(request: Request, options: Snapshot, sampler: ChosenSampler, steps: int) -> Sampling:
    """One pass's sampling.

    Args:
        request: gives what both passes share.
        options: of this request.
        sampler: the pass's.
        steps: the pass's.
    """
    noise_scale = sigma_option("s_noise", 1.0, request.s_noise, options)
    default_eta = "eta_ddim" if sampler.is_timestep else "eta_ancestral"
    return Sampling(
        sampler=sampler.name,
        schedule=sampler.effective,
        steps=steps,
        cfg_scale=request.cfg_scale,
        eta=options.number(default_eta) if request.eta is None else request.eta,
        churn=sigma_option("s_churn", 0.0, request.s_churn, options) if sampler.takes_churn else 0.0,
        churn_min=sigma_option("s_tmin", 0.0, request.s_tmin, options),
        churn_max=sigma_option("s_tmax", 0.0, request.s_tmax, options) or math.inf,
        noise_scale=noise_scale if sampler.takes_noise_scale else 1.0,
        sigma_min=options.number("sigma_min"),
        sigma_max=options.number("sigma_max"),
        rho=options.number("rho"),
        discard_penultimate=options.flag("always_discard_next_to_last_sigma") or sampler.discards_penultimate,
        scale_noise_as_sgm=options.flag("sgm_noise_multiplier"),
        quantize=options.flag("enable_quantization"),
        old_karras=options.flag("use_old_karras_scheduler_sigmas"),
        beta_alpha=options.number("beta_dist_alpha"),
        beta_beta=options.number("beta_dist_beta"),
        unipc=UniPC(
            variant=cast(_Variant, options.text("uni_pc_variant")),
            skip_type=cast(_SkipType, options.text("uni_pc_skip_type")),
            order=options.whole("uni_pc_order"),
            lower_order_final=options.flag("uni_pc_lower_order_final"),
        ),
        noise_schedule=cast(NoiseSchedule, options.text("sd_noise_schedule")),
        downcast_alphas=options.flag("use_downcasted_alpha_bar"),
    )


def sigma_option(key: str, default: float, asked: float | None, options: Snapshot) -> float:
    """An option that is not at its default beats the request, as in AUTOMATIC1111."""
    option = options.number(key)
    return option if option != default or asked is None else asked


def guidance_of(request: Request, options: Snapshot) -> Guidance:
    """When the negative prompt is left out, for all passes."""
    padding: Padding = "none"
    if options.flag("pad_cond_uncond_v0"):
        padding = "repeat"
    elif options.flag("pad_cond_uncond"):
        padding = "chunks"
    asked = request.s_min_uncond
    return Guidance(
        min_uncond=options.number("s_min_uncond") if asked is None else asked,
        min_uncond_all=options.flag("s_min_uncond_all"),
        skip_early=options.number("skip_early_cond"),
        padding=padding,
    )
