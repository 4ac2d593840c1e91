"""From the engine's results back to the wire: pictures, `parameters`, `info`, and files on disk.

With `translate`, which goes the other way, the only file that knows wire and jobs.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from sdserver.api.saving import grid_rules, name_facts, picture_rules
from sdserver.api.translate import Plan
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.images.codec import PictureFormat, encode, to_base64
from sdserver.images.files import Saver
from sdserver.images.grid import grid_rows, make_grid
from sdserver.images.infotext import InfoValue, render
from sdserver.jobs.events import Cancelled, Finished, Picture

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response's body, and why pictures could not be saved if they could not."""

    body: bytes
    save_error: str | None


@dataclass(frozen=True, slots=True)
class _Shown:
    """A picture of the answer.

    Attributes:
        index: its job's place, 0 for the grid.
        told: whether it is part of the answer.
        kept: whether it is saved.
    """

    picture: Picture
    index: int
    is_grid: bool
    told: bool
    kept: bool


def render_answer(
    plan: Plan, ends: Sequence[Finished | Cancelled], checkpoint: Checkpoint, saver: Saver, version: str
) -> Answer:
    """Encode, save and describe a request's pictures. Blocks: call it in a worker thread.

    Images that were cancelled are left out. Where a picture cannot be saved, the answer holds it all
    the same.

    Args:
        plan: what was asked.
        ends: the jobs' ends, in order.
        checkpoint: the plan's, with its hash if that is known by now.
        saver: writes the files.
        version: the program's, for the infotexts.
    """
    shown = _shown(plan, ends)
    images: list[str] = []
    texts: list[str] = []
    save_error = None
    for item in shown:
        data: dict[str, bytes] = {}
        text = infotext(plan, item.index, checkpoint, version)
        if item.told:
            texts.append(text)
            if plan.request.send_images:
                images.append(to_base64(_encoded(plan, item, text, "samples_format", data)))
        if item.kept:
            try:
                _save(plan, item, text, data, checkpoint, saver)
            except (OSError, ValueError) as error:
                log.error("a picture could not be saved: %s", error)
                save_error = getattr(error, "strerror", None) or "the folder is not allowed"
    # One that was stopped before its first picture still says what would have been made.
    texts = texts or [infotext(plan, 0, checkpoint, version)]
    has_grid = bool(shown) and shown[0].is_grid and shown[0].told
    body = {
        "images": images,
        "parameters": plan.request.model_dump(),
        "info": json.dumps(info(plan, texts, checkpoint, version, has_grid=has_grid)),
    }
    return Answer(orjson.dumps(body), save_error)


def infotext(plan: Plan, index: int, checkpoint: Checkpoint, version: str) -> str:
    """The infotext of one image, by its place in the request."""
    job, options, request = plan.jobs[index], plan.options, plan.request
    noise, resize = job.noise, job.noise.resize_from
    mixes = noise.strength != 0
    uses_ensd = plan.sampler.uses_ensd and job.sampling.eta != 0
    values: dict[str, InfoValue] = {
        "Steps": job.sampling.steps,
        "Sampler": plan.sampler.name,
        "Schedule type": plan.sampler.label,
        "CFG scale": request.cfg_scale,
        "Seed": noise.seed,
        "Size": f"{job.size.width}x{job.size.height}",
        "Model hash": checkpoint.short_hash if options.flag("add_model_hash_to_info") else None,
        "Model": checkpoint.stem if options.flag("add_model_name_to_info") else None,
        "Variation seed": noise.subseed if mixes else None,
        "Variation seed strength": noise.strength if mixes else None,
        "Seed resize from": f"{resize.width}x{resize.height}" if resize else None,
        "Clip skip": job.prompt.clip_skip if job.prompt.clip_skip > 1 else None,
        "ENSD": noise.seed_delta if noise.seed_delta and uses_ensd else None,
        "RNG": noise.source if noise.source != "GPU" else None,
    }
    values |= extra_generation_params(plan)
    values["Version"] = version if options.flag("add_version_to_infotext") else None
    return render(job.prompt.positive, job.prompt.negative, values)


def extra_generation_params(plan: Plan) -> dict[str, InfoValue]:
    """What AUTOMATIC1111's sampler and text encoder add to the infotext, in its order."""
    sampling, sampler, options = plan.jobs[0].sampling, plan.sampler, plan.options
    extra: dict[str, InfoValue] = {}
    if plan.uses_emphasis and options.text("emphasis") != "Original":
        extra["Emphasis"] = options.text("emphasis")
    if not sampler.is_timestep:
        if options.flag("always_discard_next_to_last_sigma") and not sampler.discards_penultimate:
            extra["Discard penultimate sigma"] = True
        if sampler.effective != "Automatic":
            extra |= _schedule_params(plan)
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
    return extra


def _schedule_params(plan: Plan) -> dict[str, InfoValue]:
    """What a schedule that is not the plain one adds."""
    sampling, sampler = plan.jobs[0].sampling, plan.sampler
    extra: dict[str, InfoValue] = {"Schedule type": sampler.effective}
    if sampling.sigma_min:
        extra["Schedule min sigma"] = sampling.sigma_min
    if sampling.sigma_max:
        extra["Schedule max sigma"] = sampling.sigma_max
    if sampler.default_rho is not None and sampling.rho not in (0, sampler.default_rho):
        extra["Schedule rho"] = sampling.rho
    if sampler.effective == "Beta":
        extra["Beta schedule alpha"] = plan.options.number("beta_dist_alpha")
        extra["Beta schedule beta"] = plan.options.number("beta_dist_beta")
    return extra


def info(
    plan: Plan, infotexts: list[str], checkpoint: Checkpoint, version: str, *, has_grid: bool
) -> dict[str, object]:
    """AUTOMATIC1111's `info`: 32 keys in its order."""
    request, first = plan.request, plan.jobs[0]
    return {
        "prompt": first.prompt.positive,
        "all_prompts": [job.prompt.positive for job in plan.jobs],
        "negative_prompt": first.prompt.negative,
        "all_negative_prompts": [job.prompt.negative for job in plan.jobs],
        "seed": first.noise.seed,
        "all_seeds": [job.noise.seed for job in plan.jobs],
        "subseed": first.noise.subseed,
        "all_subseeds": [job.noise.subseed for job in plan.jobs],
        "subseed_strength": request.subseed_strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": plan.sampler.name,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": checkpoint.stem,
        "sd_model_hash": checkpoint.short_hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": request.seed_resize_from_w,
        "seed_resize_from_h": request.seed_resize_from_h,
        "denoising_strength": request.denoising_strength,
        "extra_generation_params": extra_generation_params(plan),
        "index_of_first_image": int(has_grid),
        "infotexts": infotexts,
        "styles": request.styles or [],
        "job_timestamp": plan.timestamp,
        "clip_skip": first.prompt.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": version,
    }


def _shown(plan: Plan, ends: Sequence[Finished | Cancelled]) -> list[_Shown]:
    """The answer's pictures: the grid first if there is one, then the images that were made."""
    options, saves = plan.options, plan.request.save_images
    finished = [(index, end) for index, end in enumerate(ends) if isinstance(end, Finished)]
    may_save = saves and options.flag("samples_save")
    shown = [
        _Shown(
            end.picture,
            index,
            is_grid=False,
            told=True,
            kept=may_save and (options.flag("save_incomplete_images") or not end.interrupted),
        )
        for index, end in finished
    ]
    wants_grid = options.flag("return_grid") or options.flag("grid_save")
    too_few = len(shown) < 2 and options.flag("grid_only_if_multiple")
    if not shown or not saves or not wants_grid or too_few:
        return shown
    rows = grid_rows(
        len(shown),
        plan.request.batch_size,
        options.number("n_rows"),
        prevent_empty_spots=options.flag("grid_prevent_empty_spots"),
    )
    sheet = make_grid([item.picture for item in shown], rows, options.text("grid_background_color"))
    grid = _Shown(sheet, 0, is_grid=True, told=options.flag("return_grid"), kept=options.flag("grid_save"))
    return [grid, *shown]


def _encoded(plan: Plan, item: _Shown, text: str, format_option: str, done: dict[str, bytes]) -> bytes:
    """The picture's file in the option's format, encoded once per format."""
    options = plan.options
    picture_format = cast(PictureFormat, options.text(format_option))
    if picture_format not in done:
        done[picture_format] = encode(
            item.picture,
            picture_format,
            text if options.flag("enable_pnginfo") else None,
            quality=math.floor(options.number("jpeg_quality")),
            lossless=options.flag("webp_lossless"),
        )
    return done[picture_format]


def _save(
    plan: Plan, item: _Shown, text: str, done: dict[str, bytes], checkpoint: Checkpoint, saver: Saver
) -> None:
    format_option = "grid_format" if item.is_grid else "samples_format"
    rules = grid_rules(plan.options) if item.is_grid else picture_rules(plan.options)
    data = _encoded(plan, item, text, format_option, done)
    saver.save(data, plan.options.text(format_option), rules, name_facts(plan, item.index, checkpoint), text)
