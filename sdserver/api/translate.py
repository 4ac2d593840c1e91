"""From the wire to jobs: a request with its defaults, options and overrides becomes resolved jobs.

With `answer`, which goes the other way, the only file that knows both.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, cast

from sdserver.api.config import ApiConfig
from sdserver.api.limits import MAX_SEED, check_limits, check_sigmas
from sdserver.api.option_rules import OptionValue, check_served
from sdserver.api.options import CHECKPOINT, Options, Snapshot
from sdserver.api.samplers import ChosenSampler, choose
from sdserver.api.schemas import Txt2ImgRequest
from sdserver.api.unsupported import check_networks, check_request
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.errors import NotReady
from sdserver.jobs.job import Emphasis, Noise, Prompt, RandomSource, Sampling, Size, Txt2Img
from sdserver.jobs.model import Model
from sdserver.prompt.comments import strip_comments
from sdserver.prompt.networks import extract_networks
from sdserver.prompt.resolve import check_parts, resolve_negative, resolve_positive
from sdserver.prompt.styles import apply_styles

RANDOM = -1
RANDOM_SEEDS = 2**32 - 2
"""AUTOMATIC1111 draws seeds below this."""


class Checkpoints(Protocol):
    """What the API needs of the catalog."""

    def find(self, name: str) -> Checkpoint:
        """The checkpoint of that name. Raises UnknownCheckpoint."""
        ...

    def all(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint."""
        ...

    def refresh(self) -> None:
        """Look again. Blocks."""
        ...

    def hashed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its sha256. Blocks; raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, resolved.

    Attributes:
        request: as the client sent it, with defaults.
        options: those that hold for this request, overrides included.
        overrides: the request's own, normalised.
        jobs: one per image, in order.
        sampler: what the names in the request mean.
        uses_emphasis: whether brackets reach the text encoder.
        now: local time when the request began.
    """

    request: Txt2ImgRequest
    options: Snapshot
    overrides: Mapping[str, OptionValue]
    checkpoint: Checkpoint
    jobs: tuple[Txt2Img, ...]
    sampler: ChosenSampler
    uses_emphasis: bool
    now: datetime

    @property
    def timestamp(self) -> str:
        """AUTOMATIC1111's `job_timestamp`."""
        return self.now.strftime("%Y%m%d%H%M%S")


def translate(
    request: Txt2ImgRequest,
    request_id: str,
    options: Options,
    checkpoints: Checkpoints,
    config: ApiConfig,
    now: datetime,
) -> Plan:
    """Resolve a request.

    Args:
        request: the validated body.
        request_id: unique; the jobs' ids begin with it.
        options: the current ones; they are not changed.
        checkpoints: the catalog.
        config: limits and styles.
        now: local time.

    Raises:
        RequestError: the request cannot be served as it is.
        NotReady: no checkpoint is chosen.
    """
    check_request(request)
    check_limits(request, config.limits)
    overrides = options.parse(request.override_settings or {}, "override_settings")
    snapshot = options.snapshot().overridden(overrides)
    check_served(snapshot)
    check_sigmas(snapshot)
    sampler = choose(request.sampler_name or request.sampler_index, request.scheduler)
    checkpoint = _checkpoint(snapshot, checkpoints)
    if CHECKPOINT in overrides:
        overrides[CHECKPOINT] = checkpoint.title
    prompt = _prompt(request, snapshot, config)
    sampling = _sampling(request, snapshot, sampler)
    uses_emphasis = _check_prompt(prompt, request, sampler)
    size = Size(request.width, request.height)
    model = Model(checkpoint.filename)
    jobs = tuple(
        Txt2Img(f"{request_id}/{index}", model, prompt, size, noise, sampling)
        for index, noise in enumerate(_noises(request, snapshot))
    )
    return Plan(request, snapshot, overrides, checkpoint, jobs, sampler, uses_emphasis, now)


def _checkpoint(options: Snapshot, checkpoints: Checkpoints) -> Checkpoint:
    name = options.text(CHECKPOINT)
    if not name:
        raise NotReady("No checkpoint is chosen: set the option sd_model_checkpoint.", 10)
    return checkpoints.find(name)


def _prompt(request: Txt2ImgRequest, options: Snapshot, config: ApiConfig) -> Prompt:
    """Styles, then comments; tags of extra networks stay in, the program takes them out."""
    positive, negative = apply_styles(
        request.prompt, request.negative_prompt, request.styles or [], config.styles
    )
    if options.flag("enable_prompt_comments"):
        positive, negative = strip_comments(positive), strip_comments(negative)
    return Prompt(
        positive=positive,
        negative=negative,
        clip_skip=options.whole("CLIP_stop_at_last_layers"),
        emphasis=cast(Emphasis, options.text("emphasis")),
        comma_padding_backtrack=options.whole("comma_padding_backtrack"),
    )


def _check_prompt(prompt: Prompt, request: Txt2ImgRequest, sampler: ChosenSampler) -> bool:
    """See that the engine will be able to read the prompts; tell whether they use emphasis."""
    calls = request.steps * sampler.evaluations
    positive, tags = extract_networks(prompt.positive)
    if not request.disable_extra_networks:
        check_networks(tags)
    texts: set[str] = set()
    for name, parts in (
        ("prompt", resolve_positive(positive, calls)),
        ("negative_prompt", resolve_negative(prompt.negative, calls)),
    ):
        check_parts(parts, name)
        texts |= {span.text for part in parts for span in part.timeline}
    return any("(" in text or "[" in text for text in texts)


def _noises(request: Txt2ImgRequest, options: Snapshot) -> list[Noise]:
    """One per image: seed + k unless a subseed is mixed in, subseed + k always."""
    images = request.batch_size * request.n_iter
    seed = _seed(request.seed)
    subseed = _seed(request.subseed)
    step = 0 if request.subseed_strength else 1
    resize = None
    if request.seed_resize_from_w > 0 and request.seed_resize_from_h > 0:
        resize = Size(request.seed_resize_from_w, request.seed_resize_from_h)
    return [
        Noise(
            seed=(seed + k * step) & MAX_SEED,
            subseed=(subseed + k) & MAX_SEED,
            strength=request.subseed_strength,
            resize_from=resize,
            seed_delta=options.whole("eta_noise_seed_delta"),
            source=cast(RandomSource, options.text("randn_source")),
        )
        for k in range(images)
    ]


def _seed(asked: int) -> int:
    # Seeds guard nothing, they need only differ.
    return random.randrange(RANDOM_SEEDS) if asked == RANDOM else asked


def _sampling(request: Txt2ImgRequest, options: Snapshot, sampler: ChosenSampler) -> Sampling:
    noise_scale = _sigma_option("s_noise", 1.0, request.s_noise, options)
    default_eta = "eta_ddim" if sampler.is_timestep else "eta_ancestral"
    return Sampling(
        sampler=sampler.name,
        schedule=sampler.effective,
        steps=request.steps,
        cfg_scale=request.cfg_scale,
        eta=options.number(default_eta) if request.eta is None else request.eta,
        churn=_sigma_option("s_churn", 0.0, request.s_churn, options) if sampler.takes_churn else 0.0,
        churn_min=_sigma_option("s_tmin", 0.0, request.s_tmin, options),
        churn_max=_sigma_option("s_tmax", 0.0, request.s_tmax, options) or math.inf,
        noise_scale=noise_scale if sampler.takes_noise_scale else 1.0,
        sigma_min=options.number("sigma_min"),
        sigma_max=options.number("sigma_max"),
        rho=options.number("rho"),
        discard_penultimate=options.flag("always_discard_next_to_last_sigma") or sampler.discards_penultimate,
    )


def _sigma_option(key: str, default: float, asked: float | None, options: Snapshot) -> float:
    """An option that is not at its default beats the request, as in AUTOMATIC1111."""
    option = options.number(key)
    return option if option != default or asked is None else asked
