"""A request becomes a plan."""

from collections.abc import Sequence
from dataclasses import replace

from sdserver.api.limits import check_limits, check_sigmas, check_strength
from sdserver.api.option_rules import OptionValue
from sdserver.api.options import CHECKPOINT, Snapshot
from sdserver.api.requests import Img2ImgRequest, Request, Txt2ImgRequest
from sdserver.api.samplers import choose, choose_as_a1111
from sdserver.api.translate.attention import attention_of, second_attention
from sdserver.api.translate.faces import faces_of
from sdserver.api.translate.filled import filled
from sdserver.api.translate.hires import HiresParts, hires_of, hires_parts, upscaler_named
from sdserver.api.translate.models import Models, chosen_checkpoint
from sdserver.api.translate.networks import (
    Found,
    embeddings_of,
    find_networks,
    possible_embeddings,
    refused_embeddings,
)
from sdserver.api.translate.noise import noises, with_shared_paths
from sdserver.api.translate.pictures import ENLARGER, NO_ENLARGER, Inits, init_pictures, job_mask
from sdserver.api.translate.plan import NOTHING_GIVEN, Given, PicturePlan, Plan, Sources, Texts, Wording
from sdserver.api.translate.prompts import prompt_of, read_prompt, texts_of
from sdserver.api.translate.refiner import refined_passes, refiner_checkpoint, refiner_of
from sdserver.api.translate.sampling import guidance_of, sampling_of
from sdserver.api.translate.sizes import first_size
from sdserver.api.unsupported import check_request
from sdserver.errors import InvalidField, UnknownCheckpoint
from sdserver.jobs.job import Img2Img, Size, Start, Txt2Img


def translate(request: Request, request_id: str, sources: Sources, given: Given = NOTHING_GIVEN) -> Plan:
    """Resolve a request. Pictures and long infotexts take time: call it in a worker thread for those.

    Args:
        request: the validated body.
        request_id: unique; the jobs' ids begin with it.
        sources: what it is resolved with.
        given: what a script has for it.

    Raises:
        RequestError: the request cannot be served as it is.
        NotReady: no checkpoint is chosen.
    """
    request = filled(request, sources)
    check_request(request)
    check_limits(request, sources.config.limits)
    options, overrides = options_of(request, sources)
    faces = faces_of(request, options, sources)
    plan = replace(_common(request, options, overrides, sources), extra=given.extra, faces=faces)
    if isinstance(request, Img2ImgRequest):
        return _img2img(plan, request, request_id, sources, given)
    return _txt2img(plan, request, request_id, sources)


def options_of(request: Request, sources: Sources) -> tuple[Snapshot, dict[str, OptionValue]]:
    """The options that hold for this request, and what it changes of them."""
    asked = request.override_settings or {}
    overrides = sources.options.parse(asked, "override_settings")
    if not overrides.get(CHECKPOINT):
        overrides.pop(CHECKPOINT, None)  # some clients say so that they choose none
    if sources.config.a1111_quirks and CHECKPOINT in overrides:
        try:
            sources.checkpoints.find(str(overrides[CHECKPOINT]))
        except UnknownCheckpoint:
            # AUTOMATIC1111 takes it out of the very object that it echoes.
            del overrides[CHECKPOINT], asked[CHECKPOINT]
    options = sources.options.snapshot().overridden(overrides)
    check_sigmas(options)
    return options, overrides


def _common(request: Request, options: Snapshot, overrides: dict[str, OptionValue], sources: Sources) -> Plan:
    """What both kinds of request have; no jobs yet."""
    chosen = choose_as_a1111 if sources.config.a1111_quirks else choose
    sampler = chosen(request.sampler_name or request.sampler_index, request.scheduler)
    checkpoint = chosen_checkpoint(options, sources)
    if CHECKPOINT in overrides:
        overrides[CHECKPOINT] = checkpoint.title
    styles = request.styles or []
    texts = texts_of(request.prompt, request.negative_prompt, styles, sources.config.styles, options)
    return Plan(
        request=request,
        options=options,
        overrides=overrides,
        jobs=(),
        noises=with_shared_paths(noises(request, options), request.batch_size, options),
        batch_size=request.batch_size,
        size=Size(request.width, request.height),
        texts=texts,
        wording=Wording((False, False), depends_on_scheduling=False),
        sampler=sampler,
        checkpoint=checkpoint,
        now=sources.now,
        refiner=refiner_checkpoint(request, sources),
    )


def _with_networks(plan: Plan, sources: Sources) -> tuple[Plan, Found]:
    """The plan with its prompts read, and the networks that the first pass's prompt names."""
    request, texts, found = plan.request, plan.texts, Found()
    if not request.disable_extra_networks:
        found = find_networks(texts.positive, "prompt", sources.networks, plan.options)
        texts = Texts(texts.positive + found.added, texts.negative)
    calls = request.steps * plan.sampler.evaluations
    wording = read_prompt(prompt_of(texts, plan.options), ("prompt", "negative_prompt"), calls)
    return replace(plan, texts=texts, wording=wording, loras=found.loras, missing=found.missing), found


def _models(plan: Plan, texts: Sequence[Texts], sources: Sources) -> tuple[Plan, Models]:
    """The plan with its VAE and embeddings, left out ones told as missing; and what makes the models.

    Args:
        plan: so far.
        texts: of all passes.
        sources: where the files are found.
    """
    words = [word for each in texts for word in (each.positive, each.negative)]
    embeddings = possible_embeddings(words, sources.networks)
    asked = plan.request.tiling
    tiling = plan.options.flag("tiling") if asked is None else asked
    attention = attention_of(plan.request, plan.options, plan.noises[0].seed)
    models = Models(sources, plan.options, tiling, embeddings_of(embeddings), attention)
    missing = (*plan.missing, *refused_embeddings(words, sources.networks))
    plan = replace(plan, embeddings=embeddings, missing=missing, vae=models.vae(plan.checkpoint))
    return plan, models


def _txt2img(plan: Plan, request: Txt2ImgRequest, request_id: str, sources: Sources) -> Plan:
    plan, found = _with_networks(plan, sources)
    if not request.enable_hr:
        plan, models = _models(plan, [plan.texts], sources)
        plan = replace(plan, size=first_size(request))
        base = _base(plan, request, models, found, is_refined=True)
        return _with_jobs(plan, request_id, base)
    parts = hires_parts(request, plan.sampler, plan.options, sources)
    plan, models = _models(plan, [plan.texts, parts.plan.texts], sources)
    plan = _with_hires(plan, parts)
    in_first, in_second = refined_passes(plan.options)
    base = _base(plan, request, models, found, is_refined=in_first)
    refiner = plan.refiner if in_second else None
    attention = second_attention(plan.options, parts.sizes.upscale_to, plan.noises[0].seed)
    models = replace(models, attention=attention)
    return _with_jobs(
        plan, request_id, replace(base, hires=hires_of(request, parts, plan.checkpoint, refiner, models))
    )


def _with_hires(plan: Plan, parts: HiresParts) -> Plan:
    wording = plan.wording
    if parts.depends_on_scheduling:
        wording = replace(wording, depends_on_scheduling=True)
    return replace(
        plan,
        size=parts.sizes.first,
        hires=parts.plan,
        wording=wording,
        missing=tuple(dict.fromkeys((*plan.missing, *parts.networks.missing))),
    )


def _base(plan: Plan, request: Txt2ImgRequest, models: Models, found: Found, *, is_refined: bool) -> Txt2Img:
    """The first image's job, without its place."""
    refiner = plan.refiner if is_refined else None
    return Txt2Img(
        id="",
        model=models.model(plan.checkpoint, found.adapters),
        prompt=prompt_of(plan.texts, plan.options),
        size=plan.size,
        noise=plan.noises[0],
        sampling=sampling_of(request, plan.options, plan.sampler, request.steps),
        guidance=guidance_of(request, plan.options),
        refiner=refiner_of(request, refiner, plan.checkpoint, models, found.adapters),
        faces=plan.faces.job,
    )


def _with_jobs(plan: Plan, request_id: str, base: Txt2Img) -> Plan:
    jobs = [replace(base, id=_id(request_id, k), noise=noise) for k, noise in enumerate(plan.noises)]
    return replace(plan, jobs=tuple(jobs))


def _img2img(plan: Plan, request: Img2ImgRequest, request_id: str, sources: Sources, given: Given) -> Plan:
    check_strength(request.denoising_strength or 0.0, is_exact=plan.options.flag("img2img_fix_steps"))
    inits = init_pictures(request, plan.options, sources.config.limits, given)
    plan, found = _with_networks(plan, sources)
    plan, models = _models(plan, [plan.texts], sources)
    used = with_shared_paths(plan.noises[: inits.batch_size * request.n_iter], inits.batch_size, plan.options)
    base = _img2img_base(plan, request, models, found, inits)
    jobs = [
        replace(
            base,
            id=_id(request_id, k),
            noise=noise,
            init=inits.of(k).init,
            mask=job_mask(inits.of(k), plan.size, plan.options, plan.noises[k % inits.batch_size].seed),
            resize_latent=inits.of(k).resize_latent,
            recovery=given.recovery,
        )
        for k, noise in enumerate(used)
    ]
    pictures = PicturePlan(
        tuple(inits.of(k).finish for k in range(len(jobs))),
        sent_mask=given.mask is not None if given.pictures else bool(request.mask),
        has_mask=inits.prepared[0].mask is not None,
        is_cropped=inits.prepared[0].is_cropped,
        upscaler=_enlarger(plan.options, sources),
        unfitted=() if given.fitted else tuple(one.unfitted for one in inits.prepared),
    )
    return replace(plan, jobs=tuple(jobs), batch_size=inits.batch_size, pictures=pictures)


def _enlarger(options: Snapshot, sources: Sources) -> tuple[str, str] | None:
    """What enlarges a request's pictures instead of Lanczos.

    Raises:
        InvalidField: there is no upscaler of that name; with AUTOMATIC1111's quirks that is Lanczos.
    """
    name = options.text(ENLARGER)
    if name in NO_ENLARGER:
        return None
    try:
        return upscaler_named(name, ENLARGER, sources)
    except InvalidField as error:
        if sources.config.a1111_quirks:
            return None
        raise InvalidField(ENLARGER, f"The option {ENLARGER!r} cannot be used: {error}") from None


def _img2img_base(plan: Plan, request: Img2ImgRequest, models: Models, found: Found, inits: Inits) -> Img2Img:
    options = plan.options
    first = inits.prepared[0]
    return Img2Img(
        id="",
        model=models.model(plan.checkpoint, found.adapters),
        prompt=prompt_of(plan.texts, options),
        size=plan.size,
        noise=plan.noises[0],
        sampling=sampling_of(request, options, plan.sampler, request.steps),
        start=Start(
            strength=min(request.denoising_strength or 0.0, 1.0),
            exact_steps=options.flag("img2img_fix_steps"),
            extra_noise=options.number("img2img_extra_noise"),
            noise_multiplier=noise_multiplier(request, options),
        ),
        init=first.init,
        guidance=guidance_of(request, options),
        refiner=refiner_of(request, plan.refiner, plan.checkpoint, models, found.adapters),
        faces=plan.faces.job,
    )


def noise_multiplier(request: Img2ImgRequest, options: Snapshot) -> float:
    """Factor on the first noise."""
    asked = request.initial_noise_multiplier
    return options.number("initial_noise_multiplier") if asked is None else asked


def _id(request_id: str, index: int) -> str:
    return f"{request_id}/{index}"
