"""What AUTOMATIC1111's parts add to the infotext while a request runs, in the order they do it.

A key that is there already keeps its place and takes the new value.
"""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Final

from sdserver.api.always_on import ENABLED, LIMITS, always_on, key_of
from sdserver.api.answer.facts import Facts
from sdserver.api.option_rules import defaults
from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest, Request, Txt2ImgRequest
from sdserver.api.samplers import ChosenSampler
from sdserver.api.translate.attention import unet_rule, vae_rule
from sdserver.api.translate.hires import LATENT_MODES
from sdserver.api.translate.networks import bare_name
from sdserver.api.translate.pictures import mask_blur
from sdserver.api.translate.plan import HiresPlan, NamedLora, Plan
from sdserver.api.translate.resolve import noise_multiplier
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.images.infotext import InfoValue
from sdserver.jobs.job import Sampling, Txt2Img
from sdserver.jobs.model import TileRule

Extra = dict[str, InfoValue]

HIRES_PROMPT = "Hires prompt"
HIRES_NEGATIVE_PROMPT = "Hires negative prompt"
_HIRES_SCHEDULE = "Hires schedule type"
_SCHEDULE = "Schedule type"
DEFAULTS: Final = Snapshot(defaults())


def extra_generation_params(plan: Plan, facts: Facts) -> Extra:
    """The whole of it, with None for what is written for each image (`Hires prompt`)."""
    extra: Extra = dict(plan.extra)
    _add_scripts(extra, plan)
    if isinstance(plan.request, Img2ImgRequest):
        _add_pictures(extra, plan, plan.request)
    elif plan.hires is not None:
        _add_hires(extra, plan, plan.request, facts)
    _add_texts(extra, plan, facts)
    _add_model(extra, plan.options)
    _add_first_pass(extra, plan)
    is_first_refined = plan.hires is None or plan.options.text("hires_fix_refiner_pass") != "second pass"
    _add_guidance(extra, plan, facts, refines=is_first_refined)
    if plan.hires is not None:
        _add_second_pass(extra, plan, plan.hires, facts)
        _add_refiner(extra, plan, facts)
    elif plan.options.text("sd_vae_decode_method") != "Full":
        # After a second pass A1111 does not tell.
        extra["VAE Decoder"] = plan.options.text("sd_vae_decode_method")
    return extra


def _add_scripts(extra: Extra, plan: Plan) -> None:
    """Of the scripts that run with every request."""
    options = plan.options
    if options.flag("hypertile_enable_unet"):
        extra["Hypertile U-Net"] = True
        _add_tiles(extra, "Hypertile U-Net", unet_rule(options), unet_rule(DEFAULTS))
    if options.flag("hypertile_enable_vae"):
        extra["Hypertile VAE"] = True
        _add_tiles(extra, "Hypertile VAE", vae_rule(options), vae_rule(DEFAULTS))
    soft = always_on(plan.request).soft_inpainting
    if soft is not None and plan.pictures is not None and plan.pictures.sent_mask:
        extra[ENABLED] = True
        extra |= {key_of(label): value for (label, _, _), value in zip(LIMITS, astuple(soft), strict=True)}


def _add_tiles(extra: Extra, network: str, rule: TileRule, default: TileRule) -> None:
    """Settings are told where they are not the default."""
    told = (
        ("max depth", rule.max_depth, default.max_depth),
        ("max tile size", rule.max_tile, default.max_tile),
        ("swap size", rule.swap, default.swap),
    )
    extra |= {f"{network} {words}": None if value == usual else value for words, value, usual in told}


def _add_second_tiles(extra: Extra, options: Snapshot) -> None:
    if options.flag("hypertile_enable_unet_secondpass") and not options.flag("hypertile_enable_unet"):
        extra["Hypertile U-Net second pass"] = True
        _add_tiles(extra, "Hypertile U-Net", unet_rule(options), unet_rule(DEFAULTS))


def _add_pictures(extra: Extra, plan: Plan, request: Img2ImgRequest) -> None:
    extra["Denoising strength"] = request.denoising_strength
    if plan.pictures is not None and plan.pictures.sent_mask:
        if request.inpainting_mask_invert:
            extra["Mask mode"] = "Inpaint not masked"
        blur_x, blur_y = mask_blur(request)
        if blur_x > 0 or blur_y > 0:
            extra["Mask blur"] = blur_x if blur_x == blur_y else None
        if plan.pictures.is_cropped:
            extra["Inpaint area"] = "Only masked"
            extra["Masked area padding"] = request.inpaint_full_res_padding
        if plan.pictures.has_mask and request.inpainting_fill == 0:
            extra["Masked content"] = "fill"
    _add_encoder(extra, plan.options)
    contents = {2: "latent noise", 3: "latent nothing"}
    is_masked = plan.pictures is not None and plan.pictures.sent_mask and plan.pictures.has_mask
    if is_masked and request.inpainting_fill in contents:
        extra["Masked content"] = contents[request.inpainting_fill]


def _add_encoder(extra: Extra, options: Snapshot) -> None:
    if options.text("sd_vae_encode_method") != "Full":
        extra["VAE Encoder"] = options.text("sd_vae_encode_method")


def _add_hires(extra: Extra, plan: Plan, request: Request, facts: Facts) -> None:
    assert isinstance(request, Txt2ImgRequest) and plan.hires is not None  # noqa: S101, PT018
    hires = plan.hires
    extra["Denoising strength"] = request.denoising_strength
    if hires.checkpoint is not None:
        extra["Hires checkpoint"] = _short_title(facts, hires.checkpoint)
    if hires.sampler.name != plan.sampler.name:
        extra["Hires sampler"] = hires.sampler.name
    extra |= {HIRES_PROMPT: None, HIRES_NEGATIVE_PROMPT: None, _HIRES_SCHEDULE: None}
    if hires.resize:
        extra["Hires resize"] = hires.resize
    else:
        extra["Hires upscale"] = request.hr_scale
    if request.hr_second_pass_steps:
        extra["Hires steps"] = request.hr_second_pass_steps
    if request.hr_upscaler:
        extra["Hires upscaler"] = request.hr_upscaler


def _add_texts(extra: Extra, plan: Plan, facts: Facts) -> None:
    """Networks and text encoders. The negative prompt is encoded first."""
    options = plan.options
    _add_loras(extra, plan, plan.loras, facts)
    if plan.wording.depends_on_scheduling:
        extra["Old prompt editing timelines"] = True
    if options.flag("use_old_emphasis_implementation"):
        return
    emphasis = options.text("emphasis")
    positive, negative = plan.wording.emphasis
    tells_emphasis = emphasis != "Original"
    if tells_emphasis and negative and not _has_embedding(facts, plan.texts.negative):
        extra["Emphasis"] = emphasis
    hashes = facts.embedding_hashes
    names = [name for name in facts.used.embeddings if name in hashes]
    if names and options.flag("textual_inversion_add_hashes_to_infotext"):
        extra["TI hashes"] = _listed([(name, hashes[name]) for name in names])
    if tells_emphasis and (positive or negative):
        extra["Emphasis"] = emphasis


def _add_loras(extra: Extra, plan: Plan, loras: Sequence[NamedLora], facts: Facts) -> None:
    hashes = facts.lora_hashes
    names = dict.fromkeys(lora.mentioned for lora in loras if lora.mentioned in hashes)
    if names and plan.options.flag("lora_add_hashes_to_infotext"):
        extra["Lora hashes"] = _listed([(name, hashes[name]) for name in names])


def _has_embedding(facts: Facts, text: str) -> bool:
    bare = bare_name(text)
    return any(bare_name(name) in bare for name in facts.used.embeddings)


def _listed(hashes: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name.replace(':', '').replace(',', '')}: {known}" for name, known in hashes)


def _add_model(extra: Extra, options: Snapshot) -> None:
    if options.flag("use_downcasted_alpha_bar"):
        extra["Downcast alphas_cumprod"] = True
    if options.text("sd_noise_schedule") != "Default":
        extra["Noise Schedule"] = options.text("sd_noise_schedule")


def _add_first_pass(extra: Extra, plan: Plan) -> None:
    options, request, job = plan.options, plan.request, plan.jobs[0]
    if isinstance(request, Img2ImgRequest):
        multiplier = noise_multiplier(request, options)
        if multiplier != 1.0:
            extra["Noise multiplier"] = multiplier
    _add_schedule(extra, plan.sampler, job.sampling, options, is_second=False)
    from_noise = isinstance(job, Txt2Img)
    if from_noise and not plan.sampler.is_timestep and options.flag("sgm_noise_multiplier"):
        extra["SGM noise multiplier"] = True
    if not from_noise:
        _add_extra_noise(extra, options)
    _add_sampler(extra, plan.sampler, job.sampling, options)


def _add_second_pass(extra: Extra, plan: Plan, hires: HiresPlan, facts: Facts) -> None:
    options, job = plan.options, plan.jobs[0]
    if isinstance(job, Txt2Img) and job.hires is not None and job.hires.upscaler not in LATENT_MODES:
        _add_encoder(extra, options)
    _add_loras(extra, plan, [*plan.loras, *hires.loras], facts)
    _add_second_tiles(extra, options)
    if isinstance(job, Txt2Img) and job.hires is not None:
        _add_schedule(extra, hires.sampler, job.hires.sampling, options, is_second=True)
        _add_extra_noise(extra, options)
        _add_sampler(extra, hires.sampler, job.hires.sampling, options)


def _add_extra_noise(extra: Extra, options: Snapshot) -> None:
    if options.number("img2img_extra_noise") > 0:
        extra["Extra noise"] = options.number("img2img_extra_noise")


def _add_schedule(
    extra: Extra, sampler: ChosenSampler, sampling: Sampling, options: Snapshot, *, is_second: bool
) -> None:
    if options.flag("always_discard_next_to_last_sigma") and not sampler.discards_penultimate:
        extra["Discard penultimate sigma"] = True
    if sampler.is_timestep or sampler.effective == "Automatic":
        return
    if not is_second:
        extra[_SCHEDULE] = sampler.effective
    elif sampler.effective != extra.get(_SCHEDULE):
        extra[_HIRES_SCHEDULE] = sampler.effective
    if sampling.sigma_min:
        extra["Schedule min sigma"] = sampling.sigma_min
    if sampling.sigma_max:
        extra["Schedule max sigma"] = sampling.sigma_max
    if sampler.default_rho is not None and sampling.rho not in (0, sampler.default_rho):
        extra["Schedule rho"] = sampling.rho
    if sampler.effective == "Beta":
        extra["Beta schedule alpha"] = options.number("beta_dist_alpha")
        extra["Beta schedule beta"] = options.number("beta_dist_beta")


def _add_sampler(extra: Extra, sampler: ChosenSampler, sampling: Sampling, options: Snapshot) -> None:
    if sampler.takes_eta and sampling.eta != (0.0 if sampler.is_timestep else 1.0):
        extra["Eta DDIM" if sampler.is_timestep else "Eta"] = sampling.eta
    for key, name, default, is_taken in (
        ("s_churn", "Sigma churn", 0.0, sampler.takes_churn),
        ("s_tmin", "Sigma tmin", 0.0, sampler.takes_churn),
        ("s_tmax", "Sigma tmax", 0.0, sampler.takes_churn),
        ("s_noise", "Sigma noise", 1.0, sampler.takes_noise_scale),
    ):
        # Only what the options say is told; the request's own values are applied in silence.
        if is_taken and options.number(key) != default:
            extra[name] = options.number(key)


def _add_guidance(extra: Extra, plan: Plan, facts: Facts, *, refines: bool) -> None:
    """What happened while the first pass was sampled.

    Args:
        extra: so far.
        plan: the request's.
        facts: what the engine found.
        refines: whether a refiner may have taken over in that pass.
    """
    options, guidance, used = plan.options, plan.jobs[0].guidance, facts.used
    if options.flag("refiner_switch_by_sample_steps"):
        extra["Refiner switch by sampling steps"] = True
    if guidance.skip_early:
        extra["Skip Early CFG"] = guidance.skip_early
    if refines:
        _add_refiner(extra, plan, facts)
    if used.skipped_uncond:
        extra["NGMS"] = guidance.min_uncond
        if guidance.min_uncond_all:
            extra["NGMS all steps"] = True
    if used.padded:
        extra["Pad conds v0" if guidance.padding == "repeat" else "Pad conds"] = True


def _add_refiner(extra: Extra, plan: Plan, facts: Facts) -> None:
    if facts.used.refined and plan.refiner is not None:
        passes = plan.options.text("hires_fix_refiner_pass")
        if plan.hires is not None and passes != "second pass":
            extra["Hires refiner"] = passes
        extra["Refiner"] = _short_title(facts, plan.refiner)
        extra["Refiner switch at"] = plan.request.refiner_switch_at


def _short_title(facts: Facts, checkpoint: Checkpoint) -> str:
    known = facts.known(checkpoint)
    return f"{known.stem} [{known.short_hash}]" if known.short_hash else known.stem
