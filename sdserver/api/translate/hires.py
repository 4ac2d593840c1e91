"""The second pass of txt2img: AUTOMATIC1111's hires fix."""

from dataclasses import dataclass

from sdserver.api.infotext_field import SAME_CHECKPOINT, SAME_SAMPLER, SAME_SCHEDULER
from sdserver.api.limits import check_strength
from sdserver.api.options import Snapshot
from sdserver.api.requests import Txt2ImgRequest
from sdserver.api.samplers import ChosenSampler, choose
from sdserver.api.translate.models import Models
from sdserver.api.translate.networks import Found, find_networks
from sdserver.api.translate.plan import HiresPlan, Sources, Texts
from sdserver.api.translate.prompts import prompt_of, read_prompt, texts_of
from sdserver.api.translate.refiner import refiner_of
from sdserver.api.translate.sampling import sampling_of
from sdserver.api.translate.sizes import Sizes, hires_sizes
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.errors import InvalidField
from sdserver.jobs.job import Hires, Start, UpscalerTiles

LATENT_MODES = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
SIMPLE_UPSCALERS = ("None", "Lanczos", "Nearest")
_SHOWN = 100
_LEAST_TILE = 16


@dataclass(frozen=True, slots=True)
class HiresParts:
    """What the second pass is made of, before there are models.

    Attributes:
        depends_on_scheduling: whether its prompts read otherwise by the old rules of editing.
    """

    plan: HiresPlan
    sizes: Sizes
    networks: Found
    upscaler: str
    upscaler_path: str
    steps: int
    strength: float
    depends_on_scheduling: bool


def hires_parts(
    request: Txt2ImgRequest, sampler: ChosenSampler, options: Snapshot, sources: Sources
) -> HiresParts:
    """Resolve what the request says of its second pass.

    Args:
        request: one with `enable_hr`.
        sampler: the first pass's.
        options: of this request.
        sources: what it is resolved with.

    Raises:
        RequestError: it cannot be done.
    """
    strength = request.denoising_strength
    if strength is None:
        message = "With enable_hr the field 'denoising_strength' must be set: 0.5 is a good start."
        raise InvalidField("denoising_strength", message)
    check_strength(strength, is_exact=True)
    sizes = hires_sizes(request, options, sources.config.limits)
    upscaler, path = _upscaler(request.hr_upscaler, sources)
    own = _sampler(request, sampler)
    texts = _texts(request, options, sources)
    networks = Found()
    if not request.disable_extra_networks:
        networks = find_networks(texts.positive, "hr_prompt", sources.networks, options)
        texts = Texts(texts.positive + networks.added, texts.negative)
    steps = request.hr_second_pass_steps or request.steps
    wording = read_prompt(
        prompt_of(texts, options),
        ("hr_prompt", "hr_negative_prompt"),
        request.steps * sampler.evaluations,
        steps * own.evaluations,
    )
    plan = HiresPlan(texts, own, _checkpoint(request, sources), sizes.resize, networks.loras)
    return HiresParts(plan, sizes, networks, upscaler, path, steps, strength, wording.depends_on_scheduling)


def hires_of(
    request: Txt2ImgRequest,
    parts: HiresParts,
    base: Checkpoint,
    refiner: Checkpoint | None,
    models: Models,
) -> Hires:
    """The second pass of a job.

    Args:
        request: gives what both passes share.
        parts: what the pass is made of.
        base: the first pass's checkpoint.
        refiner: of this pass.
        models: makes what it runs on.
    """
    checkpoint = parts.plan.checkpoint or base
    options, adapters = models.options, parts.networks.adapters
    return Hires(
        size=parts.sizes.result,
        upscale_to=parts.sizes.upscale_to,
        upscaler=parts.upscaler,
        upscaler_path=parts.upscaler_path,
        model=models.model(checkpoint, adapters),
        prompt=prompt_of(parts.plan.texts, options),
        sampling=sampling_of(request, options, parts.plan.sampler, parts.steps),
        start=Start(
            strength=min(parts.strength, 1.0),
            exact_steps=True,
            extra_noise=options.number("img2img_extra_noise"),
        ),
        refiner=refiner_of(request, refiner, checkpoint, models, adapters),
        conditioning_weight=options.number("inpainting_mask_weight"),
        first_networks=options.flag("hires_fix_use_firstpass_conds") and parts.plan.checkpoint is None,
        tiles=upscaler_tiles(options),
        keeps_first=options.flag("save_images_before_highres_fix") and request.save_images,
    )


def _texts(request: Txt2ImgRequest, options: Snapshot, sources: Sources) -> Texts:
    return texts_of(
        request.hr_prompt or request.prompt,
        request.hr_negative_prompt or request.negative_prompt,
        request.styles or [],
        sources.config.styles,
        options,
    )


def _upscaler(name: str | None, sources: Sources) -> tuple[str, str]:
    """Canonical name and file of an upscaler; none means the first latent mode, as in AUTOMATIC1111."""
    if not name:
        return LATENT_MODES[0], ""
    if name in LATENT_MODES:
        return name, ""
    return upscaler_named(name, "hr_upscaler", sources)


def upscaler_tiles(options: Snapshot) -> UpscalerTiles:
    """How upscaling networks are given pictures.

    Raises:
        InvalidField: tiles are so small, or overlap so much, that there would be too many.
    """
    tiles = UpscalerTiles(options.whole("ESRGAN_tile"), options.whole("ESRGAN_tile_overlap"))
    if 0 < tiles.side < _LEAST_TILE:
        message = f"The option 'ESRGAN_tile' must be 0, for the whole picture, or at least {_LEAST_TILE}."
        raise InvalidField("ESRGAN_tile", message)
    if 0 < tiles.side < 2 * tiles.overlap:
        message = f"The option 'ESRGAN_tile_overlap' must be at most half of 'ESRGAN_tile', {tiles.side}."
        raise InvalidField("ESRGAN_tile_overlap", message)
    return tiles


def upscaler_named(name: str, field: str, sources: Sources) -> tuple[str, str]:
    """Name and file of an upscaler of pictures; a filter has no file.

    Raises:
        InvalidField: there is none of that name.
        RequestError: its file may not be read.
    """
    if name in SIMPLE_UPSCALERS:
        return name, ""
    file = sources.networks.find_upscaler(name)
    if file is None:
        message = f"There is no upscaler {name[:_SHOWN]!r}; GET /sdapi/v1/upscalers lists those there are."
        raise InvalidField(field, message)
    return name, file.path


def _sampler(request: Txt2ImgRequest, first: ChosenSampler) -> ChosenSampler:
    """The second pass's sampler and schedule; what is not given is the first pass's."""
    name, schedule = request.hr_sampler_name, request.hr_scheduler
    if name == SAME_SAMPLER:
        name = None
    if schedule == SAME_SCHEDULER:
        schedule = None
    if not name and not schedule:
        return first
    if not schedule and name and choose(name, None).label == "Automatic":
        schedule = first.label
    return choose(name or first.name, schedule)


def _checkpoint(request: Txt2ImgRequest, sources: Sources) -> Checkpoint | None:
    name = request.hr_checkpoint_name
    return None if not name or name == SAME_CHECKPOINT else sources.checkpoints.find_close(name)
