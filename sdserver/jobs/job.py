"""What is asked: frozen, fully resolved descriptions of one image's job.

Defaults, options and `override_settings` are folded in before a job exists, so a job can be
replayed: no field's None means "default". One image is one job; a request for n images is n jobs.
"""

from dataclasses import dataclass
from typing import Final, Literal

from sdserver.jobs.events import Picture
from sdserver.jobs.model import Model

RandomSource = Literal["GPU", "CPU", "NV"]
Emphasis = Literal["Original", "No norm", "Ignore", "None"]
NoiseSchedule = Literal["Default", "Zero Terminal SNR"]
Padding = Literal["none", "chunks", "repeat"]
MaskedContent = Literal["fill", "original", "latent noise", "latent nothing"]
FaceRestorerKind = Literal["CodeFormer", "GFPGAN"]


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
class SharedPath:
    """One Brownian path for all images of a batch, as A1111's `no_dpmpp_sde_batch_determinism` has it.

    Attributes:
        seed: of the batch's last image.
        count: images in the batch.
        place: of this image among them, from 0.
    """

    seed: int
    count: int
    place: int


@dataclass(frozen=True, slots=True)
class Noise:
    """Where one image's random numbers come from.

    Attributes:
        seed, subseed: 0 to 2**64 - 1 each (already random where -1 was asked).
        strength: share of the subseed's noise, 0 for none.
        resize_from: the size whose noise is pasted into this image's, or None.
        seed_delta: A1111's ENSD: shifts the seed of all draws after the first.
        shared_path: what SDE samplers draw from; None for a path of the image's own.
    """

    seed: int
    subseed: int
    strength: float
    resize_from: Size | None
    seed_delta: int
    source: RandomSource
    shared_path: SharedPath | None = None


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
class UpscalerTiles:
    """How an upscaling network is given a picture, as A1111's `ESRGAN_tile` and `ESRGAN_tile_overlap` say.

    Attributes:
        side: pixels, 0 for the whole picture at once.
        overlap: pixels that neighbours blend over, less than `side`.
    """

    side: int = 192
    overlap: int = 8


USUAL_TILES: Final = UpscalerTiles()


@dataclass(frozen=True, slots=True)
class Hires:
    """The second pass of A1111's hires fix.

    Attributes:
        size: the second pass's, and the result's.
        upscale_to: what the first picture is scaled to before its overhang over `size` is cut off.
        upscaler: canonical name: of a latent mode ("Latent (bicubic)"), "Lanczos", "Nearest", "None"
            (which is Lanczos), or of an upscaling network.
        upscaler_path: the network's file, empty for the others.
        tiles: for such a network.
        model: what the second pass runs on, adapters of the hires prompt included.
        prompt: its steps are counted by `sampling.steps`.
        conditioning_weight: as that of `Mask`: an inpainting checkpoint is shown the upscaled picture,
            hidden so far.
        first_networks: its prompt is encoded with the first pass's networks (A1111's
            `hires_fix_use_firstpass_conds`).
        keeps_first: the first pass's picture is wanted, too.
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
    keeps_first: bool = False
    tiles: UpscalerTiles = USUAL_TILES


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
class FaceRestorer:
    """What makes faces in pictures clear.

    Attributes:
        network: its file.
        detector, parser: files of the networks that find faces, and tell their parts.
        weight: CodeFormer's: 0 restores most, 1 keeps most of what there is; others have none.
        leaves_device: the networks do not stay on the device after their use (A1111's
            `face_restoration_unload`).
    """

    kind: FaceRestorerKind
    network: str
    detector: str
    parser: str
    weight: float = 0.5
    leaves_device: bool = False


@dataclass(frozen=True, slots=True)
class Faces:
    """That faces in a job's picture are to be restored.

    Attributes:
        keeps_picture: the picture is wanted as it was before, too.
    """

    restorer: FaceRestorer
    keeps_picture: bool = False


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
    faces: Faces | None = None


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
    faces: Faces | None = None


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
        tiles: for a network.
    """

    id: str
    picture: Picture
    size: Size
    upscaler: str
    path: str
    factor: float = 0.0
    tiles: UpscalerTiles = USUAL_TILES


@dataclass(frozen=True, slots=True)
class WordList:
    """Texts of which those are to be found that fit a picture best.

    Attributes:
        texts: at least one, none of them empty.
        most: how many are wanted, 1 or more.
    """

    texts: tuple[str, ...]
    most: int = 1


@dataclass(frozen=True, slots=True)
class Ranking:
    """What is added to a caption: the texts of some lists that fit the picture best.

    Attributes:
        network: the CLIP network's file or folder, which tells what fits.
        lists: in the order of the caption.
        shows_scores: write each text's share of its list beside it.
    """

    network: str
    lists: tuple[WordList, ...]
    shows_scores: bool = False


@dataclass(frozen=True, slots=True)
class Describe:
    """What a picture shows, in words. It needs no checkpoint.

    Attributes:
        network: folder or file of the captioning network.
        beams: of the search for the likeliest words, 1 for the greedy one.
        min_length, max_length: of the text in tokens, as AUTOMATIC1111 counts them: with the start mark and
            the words "a picture of", which the text is made to go on from.
        vocabulary: folder of the tokenizer's files, where the network is a file; else empty.
        ranking: what is added; None for nothing.
    """

    id: str
    picture: Picture
    network: str
    beams: int
    min_length: int
    max_length: int
    vocabulary: str = ""
    ranking: Ranking | None = None


@dataclass(frozen=True, slots=True)
class LabelRules:
    """Which labels are told, and how they are written, as A1111's options of DeepDanbooru say.

    Attributes:
        threshold: the least score, 0..1.
        is_sorted: by name; else the best first.
        uses_spaces: in the place of underscores.
        escapes: brackets and backslashes get a backslash before them, so that prompts take them as text.
        left_out: names, with underscores, that are never told.
        shows_scores: write each label's score beside it.
    """

    threshold: float = 0.5
    is_sorted: bool = True
    uses_spaces: bool = True
    escapes: bool = True
    left_out: frozenset[str] = frozenset()
    shows_scores: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """What a picture shows, in the labels of DeepDanbooru (its tags). It needs no checkpoint.

    Attributes:
        network: the network's file.
    """

    id: str
    picture: Picture
    network: str
    rules: LabelRules


@dataclass(frozen=True, slots=True)
class FaceStep:
    """Restoring the faces of a picture, laid over it.

    Attributes:
        share: of the result, above 0 to 1; the picture as it was shows through the rest.
    """

    restorer: FaceRestorer
    share: float


@dataclass(frozen=True, slots=True)
class Restore:
    """The faces of a picture restored, step by step. It needs no checkpoint."""

    id: str
    picture: Picture
    steps: tuple[FaceStep, ...]


WithoutCheckpoint = Enlarge | Describe | Label | Restore
Job = Txt2Img | Img2Img | WithoutCheckpoint
