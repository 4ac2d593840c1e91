"""`info` and infotexts."""

from sdserver.api.answer.extra import HIRES_NEGATIVE_PROMPT, HIRES_PROMPT, extra_generation_params
from sdserver.api.answer.facts import Facts
from sdserver.api.options import Snapshot
from sdserver.api.translate.attention import merging_of, second_merging_of
from sdserver.api.translate.plan import Plan
from sdserver.images.infotext import InfoValue, render


def infotext(plan: Plan, index: int, facts: Facts) -> str:
    """The infotext of one image, by its place in the request."""
    values = _settings(plan, index, facts)
    extra = extra_generation_params(plan, facts)
    if plan.hires is not None:
        first, second = plan.texts, plan.hires.texts
        extra[HIRES_PROMPT] = second.positive if second.positive != first.positive else None
        extra[HIRES_NEGATIVE_PROMPT] = second.negative if second.negative != first.negative else None
    values |= extra
    values["Version"] = facts.version if plan.options.flag("add_version_to_infotext") else None
    return render(plan.texts.positive, plan.texts.negative, values)


def _settings(plan: Plan, index: int, facts: Facts) -> dict[str, InfoValue]:
    """The values that every infotext has, None for those that do not apply."""
    job, options, request = plan.jobs[index], plan.options, plan.request
    noise, resize = job.noise, job.noise.resize_from
    mixes = noise.strength != 0
    uses_ensd = plan.sampler.uses_ensd and job.sampling.eta != 0
    return {
        "Steps": request.steps,
        "Sampler": plan.sampler.name,
        "Schedule type": plan.sampler.label,
        "CFG scale": request.cfg_scale,
        "Seed": noise.seed,
        "Face restoration": plan.faces.told,
        "Size": f"{plan.size.width}x{plan.size.height}",
        **_files(plan, facts),
        "Variation seed": noise.subseed if mixes else None,
        "Variation seed strength": noise.strength if mixes else None,
        "Seed resize from": f"{resize.width}x{resize.height}" if resize else None,
        "Conditional mask weight": _mask_weight(options, facts),
        "Clip skip": job.prompt.clip_skip if job.prompt.clip_skip > 1 else None,
        "ENSD": noise.seed_delta if noise.seed_delta and uses_ensd else None,
        "Init image hash": facts.init_hash,
        "Token merging ratio": merging_of(request, options) or None,
        "Token merging ratio hr": second_merging_of(options) or None if plan.hires else None,
        "RNG": noise.source if noise.source != "GPU" else None,
        "Tiling": "True" if job.model.tiling else None,
    }


def _files(plan: Plan, facts: Facts) -> dict[str, InfoValue]:
    options, checkpoint = plan.options, facts.known(plan.checkpoint)
    vae_hash = facts.vae.short_hash if facts.vae else None
    return {
        "Model hash": checkpoint.short_hash if options.flag("add_model_hash_to_info") else None,
        "Model": checkpoint.stem if options.flag("add_model_name_to_info") else None,
        "FP8 weight": options.text("fp8_storage") if facts.used.fp8 else None,
        "Cache FP16 weight for LoRA": options.flag("cache_fp16_weight") if facts.used.fp8 else None,
        "VAE hash": vae_hash if options.flag("add_vae_hash_to_info") else None,
        "VAE": facts.vae.name if facts.vae and options.flag("add_vae_name_to_info") else None,
    }


def _mask_weight(options: Snapshot, facts: Facts) -> float | None:
    return options.number("inpainting_mask_weight") if facts.used.inpainting else None


def info(plan: Plan, infotexts: list[str], facts: Facts, *, has_grid: bool) -> dict[str, object]:
    """AUTOMATIC1111's `info`: 32 keys in its order."""
    request, texts = plan.request, plan.texts
    first, count = plan.noises[0], len(plan.noises)
    checkpoint = facts.known(plan.checkpoint)
    return {
        "prompt": texts.positive,
        "all_prompts": [texts.positive] * count,
        "negative_prompt": texts.negative,
        "all_negative_prompts": [texts.negative] * count,
        "seed": first.seed,
        "all_seeds": [noise.seed for noise in plan.noises],
        "subseed": first.subseed,
        "all_subseeds": [noise.subseed for noise in plan.noises],
        "subseed_strength": request.subseed_strength,
        "width": plan.size.width,
        "height": plan.size.height,
        "sampler_name": plan.sampler.name,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": plan.batch_size,
        "restore_faces": plan.faces.told is not None,
        "face_restoration_model": plan.faces.told,
        "sd_model_name": checkpoint.stem,
        "sd_model_hash": checkpoint.short_hash,
        "sd_vae_name": facts.vae.name if facts.vae else None,
        "sd_vae_hash": facts.vae.short_hash if facts.vae else None,
        "seed_resize_from_w": request.seed_resize_from_w,
        "seed_resize_from_h": request.seed_resize_from_h,
        "denoising_strength": request.denoising_strength,
        "extra_generation_params": extra_generation_params(plan, facts),
        "index_of_first_image": int(has_grid),
        "infotexts": infotexts,
        "styles": request.styles or [],
        "job_timestamp": plan.timestamp,
        "clip_skip": plan.jobs[0].prompt.clip_skip,
        "is_using_inpainting_conditioning": facts.used.inpainting,
        "version": facts.version,
    }
