"""What is asked: frozen, fully resolved descriptions of one image's job.

Defaults, options and `override_settings` are folded in before a job exists, so a job can be
replayed: no field's None means "default". One image is one job; a request for n images is n jobs.
"""

from dataclasses import dataclass
from typing import Literal

from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model

RandomSource = Literal["GPU", "CPU", "NV"]
Emphasis = Literal["Original", "No norm", "Ignore", "None"]
NoiseSchedule = Literal["Default", "Zero Terminal SNR"]
Padding = Literal["none", "chunks", "repeat"]
MaskedContent = Literal["fill", "original", "latent noise", "latent nothing"]


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels, as asked; the latent is this divided by 8, rounded down."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text that conditions one pass of one image, after styles and comments were applied.

    Attributes:
        positive: tags of extra networks may still be in it; they are no part of the text.
        old_scheduling: numbers in prompt editing mean what they did before AUTOMATIC1111 1.6.
        sdxl_clip_l_skip: whether clip skip holds for SDXL's first encoder too.
        crop_top, crop_left: SDXL's crop coordinates.
        high_aesthetic, low_aesthetic: scores that an SDXL refiner is given for positive and negative.
        old_emphasis: brackets count as AUTOMATIC1111 counted them in 2022: as tokens that scale all that
            follows; a text is one chunk.
    """

    positive: str
    negative: str
    clip_skip: int
    emphasis: Emphasis
    comma_padding_backtrack: int
    old_scheduling: bool = False
    sdxl_clip_l_skip: bool = False
    crop_top: int = 0
    crop_left: int = 0
    high_aesthetic: float = 6.0
    low_aesthetic: float = 2.5
    old_emphasis: bool = False


@dataclass(frozen=True, slots=True)
class Noise:
    """Where one image's random numbers come from.

    Attributes:
        seed, subseed: 0 to 2**64 - 1 each (already random where -1 was asked).
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
class UniPC:
    """Options of the sampler of that name, as AUTOMATIC1111's `uni_pc_*`."""

    variant: Literal["bh1", "bh2", "vary_coeff"] = "bh1"
    skip_type: Literal["time_uniform", "time_quadratic", "logSNR"] = "time_uniform"
    order: int = 3
    lower_order_final: bool = True


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one pass of one image is denoised. Names are the registry's canonical ones.

    Attributes:
        steps: at least 1.
        eta: scale of the noise that ancestral and DDIM samplers add.
        churn, churn_min, churn_max, noise_scale: A1111's s_churn, s_tmin, s_tmax, s_noise;
            `churn_max` is infinite where A1111 says 0.
        sigma_min, sigma_max, rho: limits of the schedule; 0 means the model's or schedule's own.
        discard_penultimate: drop the last sigma but one of the schedule.
        scale_noise_as_sgm: A1111's `sgm_noise_multiplier`: the first noise is scaled by
            sqrt(1 + sigma**2), not sigma.
        quantize: round the timesteps that the network is asked at to whole ones.
        old_karras: A1111's `use_old_karras_scheduler_sigmas`: Karras from 10 to 0.1.
        beta_alpha, beta_beta: parameters of the schedule "Beta".
        noise_schedule, downcast_alphas: what is done to the model's own noise levels.
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
    scale_noise_as_sgm: bool = False
    quantize: bool = False
    old_karras: bool = False
    beta_alpha: float = 0.6
    beta_beta: float = 0.6
    unipc: UniPC = UniPC()
    noise_schedule: NoiseSchedule = "Default"
    downcast_alphas: bool = False


@dataclass(frozen=True, slots=True)
class Guidance:
    """When the negative prompt is not evaluated, and how contexts of different length meet.

    Attributes:
        min_uncond: A1111's NGMS: below this sigma the negative prompt is left out of every other
            evaluation, or of all if `min_uncond_all`.
        skip_early: share of the steps at the beginning that go without the negative prompt.
        padding: of the shorter context: not at all, with encoded empty chunks, or by repeating its
            last vector and cutting it to length (A1111's `pad_cond_uncond_v0`).
    """

    min_uncond: float = 0.0
    min_uncond_all: bool = False
    skip_early: float = 0.0
    padding: Padding = "none"


@dataclass(frozen=True, slots=True)
class Refiner:
    """Another checkpoint that takes over in mid-sampling.

    Attributes:
        switch_at: share of the noise schedule after which it does, or of the steps if `by_steps`.
    """

    model: Model
    switch_at: float
    by_steps: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Sampling from a picture instead of from noise alone.

    Attributes:
        strength: A1111's denoising strength, 0 to 1.
        exact_steps: run the sampling's steps whatever the strength (hires fix, `img2img_fix_steps`);
            otherwise only the last share of them.
        extra_noise: added to the picture's latent, in units of the noise.
        noise_multiplier: factor on the noise (A1111's `initial_noise_multiplier`).
    """

    strength: float
    exact_steps: bool
    extra_noise: float = 0.0
    noise_multiplier: float = 1.0


@dataclass(frozen=True, slots=True)
class Hires:
    """The second pass of A1111's hires fix.

    Attributes:
        size: the second pass's, and the result's.
        upscale_to: what the first picture is scaled to before its overhang over `size` is cut off.
        upscaler: canonical name: of a latent mode ("Latent (bicubic)"), "Lanczos", "Nearest", "None"
            (which is Lanczos), or of an upscaling network.
        upscaler_path: the network's file, empty for the others.
        model: what the second pass runs on, adapters of the hires prompt included.
        prompt: its steps are counted by `sampling.steps`.
        conditioning_weight: as that of `Mask`: an inpainting checkpoint is shown the upscaled picture,
            hidden so far.
        first_networks: its prompt is encoded with the first pass's networks (A1111's
            `hires_fix_use_firstpass_conds`).
    """

    size: Size
    upscale_to: Size
    upscaler: str
    upscaler_path: str
    model: Model
    prompt: Prompt
    sampling: Sampling
    start: Start
    refiner: Refiner | None = None
    conditioning_weight: float = 1.0
    first_networks: bool = False


@dataclass(frozen=True, slots=True)
class SoftInpainting:
    """Original and painted content blended by the mask's shade, as A1111's "Soft inpainting" does.

    Attributes:
        power: A1111's schedule bias: above 1 the original is kept more in early steps.
        scale: A1111's preservation strength of what is masked in part.
        detail: A1111's transition contrast boost, above 0: how far blended latents keep the larger
            magnitude.
        mask_influence: 0 to 1: how far the mask says which pixels are taken from the original.
        threshold: difference of the latents at which half of the original shows through.
        contrast: how sharp the transition around it is.
    """

    power: float = 1
    scale: float = 0.5
    detail: float = 4
    mask_influence: float = 0
    threshold: float = 0.5
    contrast: float = 2


@dataclass(frozen=True, slots=True)
class Mask:
    """What of a picture is to be painted.

    Attributes:
        pixels: height * width bytes of the size of the pass, 255 where to paint.
        latent: the same for the latent, (height // 8) * (width // 8) bytes.
        is_rounded: whether the latent mask's values are rounded to 0 and 1.
        content: what stands in the masked area at the start; "fill" is already done in the picture.
        conditioning_weight: for inpainting checkpoints, how far the picture behind the mask is hidden.
        content_seed: of the noise that the content "latent noise" is; A1111 takes those of the first
            batch for all batches.
        soft: None where what is kept is kept as it is.
    """

    pixels: bytes
    latent: bytes
    is_rounded: bool
    content: MaskedContent
    conditioning_weight: float = 1.0
    content_seed: int = 0
    soft: SoftInpainting | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """Noise that is found by walking the picture back, as A1111's "img2img alternative test" does.

    Attributes:
        positive, negative: what the picture is said to show.
        steps: of the way back.
        cfg_scale: on the way back.
        randomness: share of other noise, 0 to 1.
        sigma_adjustment: A1111's other way of taking the steps.
    """

    positive: str
    negative: str
    steps: int
    cfg_scale: float
    randomness: float
    sigma_adjustment: bool


@dataclass(frozen=True, slots=True)
class Txt2Img:
    """One picture from text.

    Attributes:
        id: unique per image: `<request id>/<index>`.
        refiner: of the first pass.
    """

    id: str
    model: Model
    prompt: Prompt
    size: Size
    noise: Noise
    sampling: Sampling
    guidance: Guidance = Guidance()
    refiner: Refiner | None = None
    hires: Hires | None = None


@dataclass(frozen=True, slots=True)
class Img2Img:
    """One picture from a picture and text.

    Attributes:
        init: the picture, of the pass's size; of any size where
            `resize_latent`, then its latent is resized to `size`.
        mask: None to paint all.
        recovery: begin with noise that is found in the picture, None with the seed's.
    """

    id: str
    model: Model
    prompt: Prompt
    size: Size
    noise: Noise
    sampling: Sampling
    start: Start
    init: Picture
    resize_latent: bool = False
    mask: Mask | None = None
    guidance: Guidance = Guidance()
    refiner: Refiner | None = None
    recovery: Recovery | None = None


@dataclass(frozen=True, slots=True)
class Enlarge:
    """A picture enlarged by an upscaler and fitted to an exact size. It needs no checkpoint.

    Attributes:
        size: the result's.
        upscaler: canonical name: "Lanczos", "Nearest", "None" (which is Lanczos), or of an upscaling
            network.
        path: the network's file, empty for the others.
        factor: what the upscaler is asked to enlarge by, then `size` is that of the picture times this in
            whole cells of 8 pixels; a network is applied once where it is 1. 0 for what `size` takes.
    """

    id: str
    picture: Picture
    size: Size
    upscaler: str
    path: str
    factor: float = 0.0


@dataclass(frozen=True, slots=True)
class Describe:
    """What a picture shows, in words. It needs no checkpoint.

    Attributes:
        network: folder of the captioning network.
        beams: of the search for the likeliest words, 1 for the greedy one.
        min_length, max_length: of the text in tokens, as AUTOMATIC1111 counts them: with the start mark and
            the words "a picture of", which the text is made to go on from.
    """

    id: str
    picture: Picture
    network: str
    beams: int
    min_length: int
    max_length: int


WithoutCheckpoint = Enlarge | Describe
Job = Txt2Img | Img2Img | WithoutCheckpoint
