"""Where a request's pictures are saved and what they are called, by AUTOMATIC1111's options."""

import hashlib
from typing import Literal

from PIL import Image

from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest
from sdserver.api.translate.plan import Plan
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.errors import InvalidField
from sdserver.images.files import Saver, SaveRules
from sdserver.images.naming import NameFacts
from sdserver.jobs.events import Picture

Contents = Literal["samples", "grids"]
INIT_FOLDER = "outdir_init_images"


def check_folders(plan: Plan, saver: Saver) -> None:
    """See, before any work is done, that pictures may be saved where the options say.

    Raises:
        InvalidField: the request saves its pictures and a folder lies outside `outputs`.
    """
    options = plan.options
    keys = [_folder_option(plan, "samples"), _folder_option(plan, "grids")]
    keys = keys if plan.request.save_images else []
    if options.flag("save_init_img") and isinstance(plan.request, Img2ImgRequest):
        keys.append(INIT_FOLDER)
    for key in keys:
        try:
            saver.folder(options.text(key))
        except ValueError as error:
            message = f"Pictures cannot be saved, the option {key!r} is not allowed: {error}"
            raise InvalidField(key, message) from None


def picture_rules(plan: Plan) -> SaveRules:
    """For the images themselves."""
    options = plan.options
    in_folders = options.flag("save_to_dirs")
    pattern = options.text("samples_filename_pattern")
    return SaveRules(
        directory=options.text(_folder_option(plan, "samples")),
        directory_pattern=_folder_pattern(options) if in_folders else "",
        name_pattern=pattern or ("[seed]" if in_folders else "[seed]-[prompt_spaces]"),
        prefix="",
        numbered=options.flag("save_images_add_number"),
        replace=options.text("save_images_replace_action") == "Replace",
        write_text=options.flag("save_txt"),
    )


def grid_rules(plan: Plan) -> SaveRules:
    """For the grid of a request."""
    options, rules = plan.options, picture_rules(plan)
    return SaveRules(
        directory=options.text(_folder_option(plan, "grids")),
        directory_pattern=_folder_pattern(options) if options.flag("grid_save_to_dirs") else "",
        name_pattern=rules.name_pattern if options.flag("grid_extended_filename") else "",
        prefix="grid",
        numbered=True,
        replace=rules.replace,
        write_text=rules.write_text,
    )


def init_rules(plan: Plan, name: str) -> SaveRules:
    """For a picture that a client sent, saved under that name."""
    return SaveRules(
        directory=plan.options.text(INIT_FOLDER),
        directory_pattern="",
        name_pattern=name,
        prefix="",
        numbered=False,
        replace=True,
        write_text=False,
    )


def name_facts(
    plan: Plan, index: int, checkpoint: Checkpoint, picture: Picture | Image.Image | None = None
) -> NameFacts:
    """What file names may tell of one image.

    Args:
        plan: the request.
        index: the image's place in the request.
        checkpoint: with its hash.
        picture: what is saved.
    """
    job, request = plan.jobs[index], plan.request
    return NameFacts(
        seed=job.noise.seed,
        first_seed=plan.noises[0].seed,
        last_seed=plan.noises[-1].seed,
        steps=job.sampling.steps,
        cfg_scale=request.cfg_scale,
        width=plan.size.width,
        height=plan.size.height,
        sampler=plan.sampler.name,
        schedule=plan.sampler.label,
        model_name=checkpoint.stem,
        model_hash=checkpoint.short_hash or "",
        prompt=job.prompt.positive,
        prompt_no_styles=request.prompt,
        negative_prompt=job.prompt.negative,
        styles=tuple(request.styles or ()),
        clip_skip=job.prompt.clip_skip,
        batch_size=plan.batch_size,
        batch_index=index % plan.batch_size,
        generation_index=index,
        images=len(plan.jobs),
        job_timestamp=plan.timestamp,
        now=plan.now,
        max_prompt_words=plan.options.whole("directories_max_prompt_words"),
        denoising=request.denoising_strength,
        vae_filename=plan.vae.name.lstrip(".").partition(".")[0] if plan.vae else "NoneType",
        image_hash=lambda: hashlib.sha256(_pixels(picture)).hexdigest(),
    )


def _pixels(picture: Picture | Image.Image | None) -> bytes:
    if isinstance(picture, Picture):
        return picture.pixels
    return picture.tobytes() if picture is not None else b""


def _folder_option(plan: Plan, contents: Contents) -> str:
    kind = "img2img" if isinstance(plan.request, Img2ImgRequest) else "txt2img"
    return f"outdir_{kind}_{contents}"


def _folder_pattern(options: Snapshot) -> str:
    return options.text("directories_filename_pattern") or "[prompt_words]"
