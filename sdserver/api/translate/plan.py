"""A request, resolved: its jobs, and what the answer will have to tell of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from PIL import Image

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
from sdserver.images.infotext import InfoValue
from sdserver.images.resize import Unfitted
from sdserver.jobs.job import Faces, Img2Img, Noise, Recovery, Size, Txt2Img


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


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a script puts in the place of what the client sent, or beside it.

    Attributes:
        pictures: what img2img begins with, decoded; none: the request's `init_images`.
        mask: the request's counts where `pictures` is empty.
        latent_mask: see `images.img2img.Preparation`.
        colours: see `images.img2img.Preparation`.
        extra: see `Plan`.
        recovery: see `jobs.job.Img2Img`.
        fitted: for each picture what an upscaler made of its `PicturePlan.unfitted`, None where nothing;
            empty where no upscaler was asked yet.
    """

    pictures: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    latent_mask: Image.Image | None = None
    colours: Image.Image | None = None
    extra: Mapping[str, InfoValue] = field(default_factory=dict)
    recovery: Recovery | None = None
    fitted: tuple[Image.Image | None, ...] = ()


NOTHING_GIVEN = Given()


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
class FacesPlan:
    """What is done about faces.

    Attributes:
        told: the restorer's name as the infotext has it; None where faces are not to be restored.
        job: None where they stay as they are: also where AUTOMATIC1111 leaves them without a word.
    """

    told: str | None = None
    job: Faces | None = None


@dataclass(frozen=True, slots=True)
class PicturePlan:
    """What is done with an img2img request's results.

    Attributes:
        finishes: one for each job, in order.
        sent_mask: whether there was a mask picture.
        has_mask: whether something is masked: a blank mask may count as none.
        is_cropped: whether only the masked area is painted.
        upscaler: name and file of what enlarges pictures where they have to become larger, None for
            Lanczos; the file is empty for a filter.
        unfitted: for each of the request's pictures what the upscaler is to enlarge before anything can
            begin; None where nothing.
    """

    finishes: tuple[Finish, ...]
    sent_mask: bool
    has_mask: bool
    is_cropped: bool
    upscaler: tuple[str, str] | None = None
    unfitted: tuple[Unfitted | None, ...] = ()


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
        extra: what a script adds to the infotext, before all else that is added.
    """

    request: Request
    options: Snapshot
    overrides: Mapping[str, OptionValue]
    jobs: tuple[Txt2Img | Img2Img, ...]
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
    extra: Mapping[str, InfoValue] = field(default_factory=dict)
    faces: FacesPlan = FacesPlan()

    @property
    def timestamp(self) -> str:
        """AUTOMATIC1111's `job_timestamp`."""
        return self.now.strftime("%Y%m%d%H%M%S")

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All that the infotext names."""
        hires = self.hires.checkpoint if self.hires else None
        return tuple(each for each in (self.checkpoint, self.refiner, hires) if each is not None)
