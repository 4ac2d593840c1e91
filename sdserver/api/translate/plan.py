"""A request, resolved: its jobs, and what the answer will have to tell of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sdserver.api.config import ApiConfig
from sdserver.api.engine import Checkpoints
from sdserver.api.option_rules import OptionValue
from sdserver.api.options import Options, Snapshot
from sdserver.api.requests import Request
from sdserver.api.samplers import ChosenSampler
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.catalog.network_file import NetworkFile
from sdserver.catalog.networks import Networks
from sdserver.images.finish import Finish
from sdserver.jobs.job import Job, Noise, Size


@dataclass(frozen=True, slots=True)
class Sources:
    """What requests are resolved with.

    Attributes:
        options: the current ones; they are not changed.
        now: local time when the request came.
    """

    options: Options
    checkpoints: Checkpoints
    networks: Networks
    config: ApiConfig
    now: datetime


@dataclass(frozen=True, slots=True)
class Texts:
    """The two prompts of a pass after styles and comments, as infotexts show them."""

    positive: str
    negative: str


@dataclass(frozen=True, slots=True)
class NamedLora:
    """A LoRA by the name that the prompt gave it."""

    mentioned: str
    file: NetworkFile


@dataclass(frozen=True, slots=True)
class Wording:
    """What the prompts are found to hold.

    Attributes:
        emphasis: whether brackets reach the text encoder in the positive and the negative prompt.
        depends_on_scheduling: whether prompt editing means something else by the old rules.
    """

    emphasis: tuple[bool, bool]
    depends_on_scheduling: bool


@dataclass(frozen=True, slots=True)
class HiresPlan:
    """The second pass, as far as the infotext tells of it.

    Attributes:
        checkpoint: where it is another than the first pass's was asked for.
        resize: as the request says it, "" if it gives a factor.
        loras: of its prompt.
    """

    texts: Texts
    sampler: ChosenSampler
    checkpoint: Checkpoint | None
    resize: str
    loras: tuple[NamedLora, ...]


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """What is done with an img2img request's results.

    Attributes:
        finishes: one for each job, in order.
        has_mask: whether something is masked: a blank mask may count as none.
        is_cropped: whether only the masked area is painted.
    """

    finishes: tuple[Finish, ...]
    has_mask: bool
    is_cropped: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, resolved.

    Attributes:
        request: as the client sent it, with defaults and what its infotext filled in.
        options: those that hold for this request, overrides included.
        overrides: the request's own, normalised.
        jobs: one per image, in order.
        noises: what `info` lists; AUTOMATIC1111 counts these before it cuts a batch down to the number
            of the request's pictures, so there may be more than jobs.
        batch_size: images per batch.
        size: of the first pass, as asked.
        vae: instead of the checkpoint's own.
        refiner: the checkpoint that takes over, if one may.
        loras: of the first pass's prompt.
        embeddings: those whose names may stand in the prompts.
        missing: networks that the prompts name and that there are not.
        now: local time when the request came.
    """

    request: Request
    options: Snapshot
    overrides: Mapping[str, OptionValue]
    jobs: tuple[Job, ...]
    noises: tuple[Noise, ...]
    batch_size: int
    size: Size
    texts: Texts
    wording: Wording
    sampler: ChosenSampler
    checkpoint: Checkpoint
    now: datetime
    vae: NetworkFile | None = None
    refiner: Checkpoint | None = None
    hires: HiresPlan | None = None
    pictures: PicturePlan | None = None
    loras: tuple[NamedLora, ...] = ()
    embeddings: tuple[NetworkFile, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def timestamp(self) -> str:
        """AUTOMATIC1111's `job_timestamp`."""
        return self.now.strftime("%Y%m%d%H%M%S")

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All that the infotext names."""
        hires = self.hires.checkpoint if self.hires else None
        return tuple(each for each in (self.checkpoint, self.refiner, hires) if each is not None)
