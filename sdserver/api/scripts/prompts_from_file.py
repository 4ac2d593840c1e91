"""Prompts from file or textbox: a run for each line."""

from collections.abc import Sequence
from typing import Any, Final

from sdserver.api.requests import Img2ImgRequest, Request
from sdserver.api.samplers import choose, choose_as_a1111
from sdserver.api.scripts.checks import Values, refused
from sdserver.api.scripts.prompt_lines import Line, read_line
from sdserver.api.scripts.runs import changed, fixed, overridden, saving_run
from sdserver.api.scripts.script import (
    Argument,
    Context,
    Done,
    Outcome,
    Run,
    Script,
    ScriptPicture,
    Steps,
)

MAX_TEXT: Final = 500_000
MAX_LINES: Final = 1000

ARGUMENTS: Final = (
    Argument("Iterate seed every line", value=False),
    Argument("Use same random seed for all lines", value=False),
    Argument("Insert prompts at the", "start", choices=("start", "end")),
    Argument("List of prompt inputs", ""),
)


def _begin(context: Context, given: Sequence[Any]) -> Steps:
    values = Values(ARGUMENTS, given)
    iterates, shares = values.flag(0), values.flag(1)
    at_start = values.choice(2, ("start", "end")) == "start"
    texts = [text for line in values.text(3, MAX_TEXT).splitlines() if (text := line.strip())]
    if not 0 < len(texts) <= MAX_LINES:
        raise refused(f"Write from 1 to {MAX_LINES:,} lines of prompts, one prompt each, not {len(texts):,}.")
    guesses = context.sources.config.a1111_quirks
    lines = [read_line(text, guesses=guesses) for text in texts]
    request = context.request
    if iterates or shares:
        request = changed(request, seed=fixed(context, request.seed))
    step = request.batch_size * request.n_iter if iterates else 0
    runs = [
        _run(context, changed(request, seed=request.seed + index * step), line, at_start=at_start)
        for index, line in enumerate(lines)
    ]
    context.expect(sum(run.request.batch_size * run.request.n_iter for run in runs))
    return _steps(context, runs, request.seed + len(runs) * step)


def _run(context: Context, request: Request, line: Line, *, at_start: bool) -> Run:
    fields = dict(line.fields)
    for name in ("prompt", "negative_prompt"):
        own, common = fields.get(name), getattr(request, name)
        if own and common:
            fields[name] = f"{own} {common}" if at_start else f"{common} {own}"
    request = changed(request, **fields)
    options = dict(line.options)
    if line.folder is not None:
        tab = "img2img" if isinstance(request, Img2ImgRequest) else "txt2img"
        options[f"outdir_{tab}_samples"] = line.folder
    run = saving_run(context, overridden(request, **options) if options else request)
    keeps = run.keeps_samples and line.saves is not False
    return Run(run.request, run.given, keeps_samples=keeps)


def _steps(context: Context, runs: Sequence[Run], seed: int) -> Steps:
    done: list[Done] = yield runs
    pictures = [
        ScriptPicture(image, text)
        for one in done
        for image, text in zip(one.pictures, one.texts, strict=True)
    ]
    return Outcome(tuple(pictures), _info(context, done, seed))


def _info(context: Context, done: Sequence[Done], seed: int) -> dict[str, Any]:
    """As AUTOMATIC1111's, which describes the client's request as if nothing had been made of it yet.

    Args:
        context: of the script.
        done: the runs.
        seed: the one that a next line would have.
    """
    request, options = context.request, context.options
    chosen = choose_as_a1111 if context.sources.config.a1111_quirks else choose
    prompts = [prompt for one in done for prompt in one.info["all_prompts"]]
    extra: dict[str, Any] = {}
    for one in done:
        extra |= one.info["extra_generation_params"]
    told = dict.fromkeys(
        ("face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash")
    )
    same = {
        key: getattr(request, key)
        for key in (
            "subseed",
            "subseed_strength",
            "width",
            "height",
            "cfg_scale",
            "steps",
            "batch_size",
            "restore_faces",
            "seed_resize_from_w",
            "seed_resize_from_h",
            "denoising_strength",
        )
    }
    return {
        **done[0].info,
        **told,
        **same,
        "prompt": prompts[0],
        "all_prompts": prompts,
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt],
        "seed": seed,
        "all_seeds": [seed],
        "all_subseeds": [request.subseed],
        "sampler_name": chosen(request.sampler_name or request.sampler_index, request.scheduler).name,
        "extra_generation_params": extra,
        "infotexts": [text for one in done for text in one.info["infotexts"]],
        "styles": request.styles or [],
        "clip_skip": options.whole("CLIP_stop_at_last_layers"),
        "is_using_inpainting_conditioning": False,
    }


SCRIPT: Final = Script("Prompts from file or textbox", ("txt2img", "img2img"), ARGUMENTS, _begin)
