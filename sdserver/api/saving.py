"""Where a request's pictures are saved and what they are called, by AUTOMATIC1111's options."""

from typing import Literal

from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest
from sdserver.api.translate.plan import Plan
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.errors import InvalidField
from sdserver.images.files import Saver, SaveRules
from sdserver.images.naming import NameFacts

Contents = Literal["samples", "grids"]


def check_folders(plan: Plan, saver: Saver) -> None:
    """See, before any work is done, that pictures may be saved where the options say.

    Raises:
        InvalidField: the request saves its pictures and a folder lies outside `outputs`.
    """
    if plan.request.save_images:
        for key in (_folder_option(plan, "samples"), _folder_option(plan, "grids")):
            try:
                saver.folder(plan.options.text(key))
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


def name_facts(plan: Plan, index: int, checkpoint: Checkpoint) -> NameFacts:
    """What file names may tell of one image, by its place in the request."""
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
    )


def _folder_option(plan: Plan, contents: Contents) -> str:
    kind = "img2img" if isinstance(plan.request, Img2ImgRequest) else "txt2img"
    return f"outdir_{kind}_{contents}"


def _folder_pattern(options: Snapshot) -> str:
    return options.text("directories_filename_pattern") or "[prompt_words]"
