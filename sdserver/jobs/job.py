"""What is asked: frozen, fully resolved descriptions of one image's job.

Defaults, options and `override_settings` are folded in before a job exists, so a job can be
replayed: no field's None means "default". One image is one job; a request for n images is n jobs.
"""

from dataclasses import dataclass
from typing import Literal

RandomSource = Literal["GPU", "CPU", "NV"]
Emphasis = Literal["Original", "No norm", "Ignore", "None"]


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels, as asked; the latent is this divided by 8, rounded down."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text that conditions one image, after styles and comments were applied."""

    positive: str
    negative: str
    clip_skip: int
    emphasis: Emphasis
    comma_padding_backtrack: int


@dataclass(frozen=True, slots=True)
class Noise:
    """Where one image's random numbers come from.

    Attributes:
        seed, subseed: 0 to 2**32 - 1 each (already random where -1 was asked).
        strength: share of the subseed's noise, 0 for none.
        resize_from: the size whose noise is pasted into this image's, or None.
        seed_delta: A1111's ENSD: shifts the seed of all draws after the first.
    """

    seed: int
    subseed: int
    strength: float
    resize_from: Size | None
    seed_delta: int
    source: RandomSource


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one image is denoised. Names are the registry's canonical ones.

    Attributes:
        steps: at least 1.
        eta: scale of the noise that ancestral and DDIM samplers add.
        churn, churn_min, churn_max, noise_scale: A1111's s_churn, s_tmin, s_tmax, s_noise;
            `churn_max` is infinite where A1111 says 0.
        sigma_min, sigma_max, rho: limits of the schedule; 0 means the model's or schedule's own.
        discard_penultimate: drop the last sigma but one of the schedule.
    """

    sampler: str
    schedule: str
    steps: int
    cfg_scale: float
    eta: float
    churn: float
    churn_min: float
    churn_max: float
    noise_scale: float
    sigma_min: float
    sigma_max: float
    rho: float
    discard_penultimate: bool


@dataclass(frozen=True, slots=True)
class Txt2Img:
    """One picture from text.

    Attributes:
        id: unique per image: `<request id>/<index>`.
        checkpoint: absolute path of the checkpoint file or folder.
    """

    id: str
    checkpoint: str
    prompt: Prompt
    size: Size
    noise: Noise
    sampling: Sampling


Job = Txt2Img
