"""The request field `infotext`: a picture's text fills the fields that a client did not send.

As in AUTOMATIC1111 1.10, without three bugs of its: a text about a hires pass whose sampler it does
not name is no error, `enable_hr` is set only where the text tells of a hires pass, and width and
height of `seed_resize_from` are not swapped.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from pydantic_core import PydanticCustomError

from sdserver.api import coerce
from sdserver.api.option_rules import OptionValue, defaults, normalise
from sdserver.api.options import CHECKPOINT, Snapshot
from sdserver.errors import InvalidField, RequestError, UnknownCheckpoint
from sdserver.images.infotext_reader import Reading, ReadValue, StyleRule, StyleTemplate, has_hires, read
from sdserver.prompt.attention import BREAK, parse_attention
from sdserver.sampling import registry

Tab = Literal["txt2img", "img2img"]
Convert = Callable[[object], object]

SAME_SAMPLER: Final = "Use same sampler"
SAME_SCHEDULER: Final = "Use same scheduler"
SAME_CHECKPOINT: Final = "Use same checkpoint"
"""What infotexts say where the hires pass takes the first pass's; the fields `hr_*` may say so too."""

_TXT2IMG: Final[Mapping[str, tuple[str, Convert]]] = {
    "prompt": ("Prompt", coerce.to_str),
    "negative_prompt": ("Negative prompt", coerce.to_str),
    "cfg_scale": ("CFG scale", coerce.to_float),
    "width": ("Size-1", coerce.to_int),
    "height": ("Size-2", coerce.to_int),
    "batch_size": ("Batch size", coerce.to_int),
    "styles": ("Styles array", coerce.to_list),
    "denoising_strength": ("Denoising strength", coerce.to_float),
    "hr_scale": ("Hires upscale", coerce.to_float),
    "hr_upscaler": ("Hires upscaler", coerce.to_str),
    "hr_second_pass_steps": ("Hires steps", coerce.to_int),
    "hr_resize_x": ("Hires resize-1", coerce.to_int),
    "hr_resize_y": ("Hires resize-2", coerce.to_int),
    "hr_checkpoint_name": ("Hires checkpoint", coerce.to_str),
    "hr_prompt": ("Hires prompt", coerce.to_str),
    "hr_negative_prompt": ("Hires negative prompt", coerce.to_str),
}
_BOTH: Final[Mapping[str, tuple[str, Convert]]] = {
    "steps": ("Steps", coerce.to_int),
    "seed": ("Seed", coerce.to_int),
    "subseed": ("Variation seed", coerce.to_int),
    "subseed_strength": ("Variation seed strength", coerce.to_float),
    "seed_resize_from_w": ("Seed resize from-1", coerce.to_int),
    "seed_resize_from_h": ("Seed resize from-2", coerce.to_int),
    "refiner_switch_at": ("Refiner switch at", coerce.to_float),
}
_OPTIONS: Final[tuple[tuple[str, str], ...]] = (
    # In the order of AUTOMATIC1111's settings page, which is that of the echo.
    ("Pad conds v0", "pad_cond_uncond_v0"),
    ("Old prompt editing timelines", "use_old_scheduling"),
    ("Downcast alphas_cumprod", "use_downcasted_alpha_bar"),
    ("Refiner switch by sampling steps", "refiner_switch_by_sample_steps"),
    ("Conditional mask weight", "inpainting_mask_weight"),
    ("Noise multiplier", "initial_noise_multiplier"),
    ("Extra noise", "img2img_extra_noise"),
    ("NGMS", "s_min_uncond"),
    ("NGMS all steps", "s_min_uncond_all"),
    ("Token merging ratio", "token_merging_ratio"),
    ("Token merging ratio hr", "token_merging_ratio_hr"),
    ("Pad conds", "pad_cond_uncond"),
    ("FP8 weight", "fp8_storage"),
    ("Cache FP16 weight for LoRA", "cache_fp16_weight"),
    ("Eta DDIM", "eta_ddim"),
    ("Eta", "eta_ancestral"),
    ("Sigma churn", "s_churn"),
    ("Sigma tmin", "s_tmin"),
    ("Sigma tmax", "s_tmax"),
    ("Sigma noise", "s_noise"),
    ("Schedule min sigma", "sigma_min"),
    ("Schedule max sigma", "sigma_max"),
    ("Schedule rho", "rho"),
    ("ENSD", "eta_noise_seed_delta"),
    ("Discard penultimate sigma", "always_discard_next_to_last_sigma"),
    ("SGM noise multiplier", "sgm_noise_multiplier"),
    ("UniPC variant", "uni_pc_variant"),
    ("UniPC skip type", "uni_pc_skip_type"),
    ("UniPC order", "uni_pc_order"),
    ("UniPC lower order final", "uni_pc_lower_order_final"),
    ("Noise Schedule", "sd_noise_schedule"),
    ("Skip Early CFG", "skip_early_cond"),
    ("Beta schedule alpha", "beta_dist_alpha"),
    ("Beta schedule beta", "beta_dist_beta"),
    ("Model hash", CHECKPOINT),
    ("Emphasis", "emphasis"),
    ("Clip skip", "CLIP_stop_at_last_layers"),
    ("RNG", "randn_source"),
    ("Tiling", "tiling"),
    ("Hires refiner", "hires_fix_refiner_pass"),
    ("VAE", "sd_vae"),
    ("VAE Encoder", "sd_vae_encode_method"),
    ("VAE Decoder", "sd_vae_decode_method"),
    ("Hypertile U-Net", "hypertile_enable_unet"),
    ("Hypertile U-Net second pass", "hypertile_enable_unet_secondpass"),
    ("Hypertile U-Net max depth", "hypertile_max_depth_unet"),
    ("Hypertile U-Net max tile size", "hypertile_max_tile_unet"),
    ("Hypertile U-Net swap size", "hypertile_swap_size_unet"),
    ("Hypertile VAE", "hypertile_enable_vae"),
    ("Hypertile VAE max depth", "hypertile_max_depth_vae"),
    ("Hypertile VAE max tile size", "hypertile_max_tile_vae"),
    ("Hypertile VAE swap size", "hypertile_swap_size_vae"),
)
_WHOLE: Final = frozenset({"CLIP_stop_at_last_layers", "uni_pc_order"})
"""Options that are whole numbers, although AUTOMATIC1111 lists them as floats."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What a text says.

    Attributes:
        fields: of the request, which the client did not send; of the kinds that the request has.
        overrides: options that differ from the current ones; what the client overrides goes before.
    """

    fields: Mapping[str, Any]
    overrides: Mapping[str, OptionValue]


def fill(
    text: str,
    tab: Tab,
    sent: Collection[str],
    options: Snapshot,
    styles: Sequence[StyleTemplate],
    title_of: Callable[[str], str],
) -> Filled:
    """Read a request's `infotext`.

    Args:
        text: the infotext; nothing is filled from an empty one.
        tab: which of a text's values count: all for txt2img; for img2img only seeds, steps, sampler
            and refiner.
        sent: names of the fields that the client sent.
        options: the current ones.
        styles: templates that are looked for in the prompts.
        title_of: the title of the checkpoint that a refiner's name means; raises UnknownCheckpoint.

    Raises:
        InvalidField: a value in the text is of the wrong kind.
    """
    if not text:
        return Filled({}, {})
    values = read(text, reading_of(options, styles))
    rows = {**_TXT2IMG, **_BOTH} if tab == "txt2img" else _BOTH
    fields: dict[str, Any] = {
        name: _converted(key, values[key], convert)
        for name, (key, convert) in rows.items()
        if values.get(key) is not None
    }
    fields |= _samplers(values, tab)
    if tab == "txt2img":
        fields["enable_hr"] = has_hires(text)
    refiner = values.get("Refiner")
    if refiner is not None:
        fields["refiner_checkpoint"] = _title(str(refiner), title_of)
    unsent = {name: value for name, value in fields.items() if name not in sent}
    return Filled(unsent, _overrides(values, options))


def reading_of(options: Snapshot, styles: Sequence[StyleTemplate]) -> Reading:
    """How the options have infotexts read."""
    skipped = options["infotext_skip_pasting"]
    return Reading(
        styles=styles,
        style_rule=cast(StyleRule, options.text("infotext_styles")),
        skipped=frozenset(skipped if isinstance(skipped, list) else ()),
        understands_old=options.flag("auto_backcompat"),
        uses_emphasis=uses_emphasis,
    )


def uses_emphasis(prompt: str) -> bool:
    """Whether a word of the prompt has another weight than 1."""
    try:
        parsed = parse_attention(prompt)
    except InvalidField:
        return True  # it nests too deeply to be used, but it does have brackets
    return any(weight != 1.0 and text != BREAK[0] for text, weight in parsed)


def _converted(key: str, value: ReadValue, convert: Convert) -> object:
    try:
        return convert(value)
    except PydanticCustomError as error:
        message = f"In the infotext {key!r} cannot be used: {error.message()}."
        raise InvalidField("infotext", message) from None


def _title(name: str, title_of: Callable[[str], str]) -> str:
    """The refiner's title. An unknown name stays, to be refused where it is used."""
    try:
        return title_of(name)
    except UnknownCheckpoint:
        return name


def _samplers(values: Mapping[str, ReadValue], tab: Tab) -> dict[str, str]:
    """Sampler and schedule of both passes, apart: texts of old versions name them in one."""
    sampler, schedule = _text(values, "Sampler"), _text(values, "Schedule type")
    name, label = _apart(sampler, schedule)
    fields = {"sampler_name": name, "scheduler": label}
    if tab == "img2img":
        return fields
    hires_sampler, hires_schedule = _text(values, "Hires sampler"), _text(values, "Hires schedule type")
    name, label = _apart(
        sampler if hires_sampler == SAME_SAMPLER else hires_sampler,
        schedule if hires_schedule == SAME_SCHEDULER else hires_schedule,
    )
    return fields | {
        "hr_sampler_name": SAME_SAMPLER if name == sampler else name,
        "hr_scheduler": SAME_SCHEDULER if label == schedule else label,
    }


def _text(values: Mapping[str, ReadValue], key: str) -> str:
    value = values.get(key)
    return "" if value is None else str(value)


def _apart(sampler: str, schedule: str) -> tuple[str, str]:
    """A sampler's and a schedule's names; the schedule that the sampler takes anyway is Automatic.

    A name that is not known is left as it is, to be refused where it is used; none at all is the first
    sampler, as in AUTOMATIC1111.
    """
    sampler = sampler or registry.SAMPLERS[0].name
    try:
        found, label, _ = registry.resolve(sampler, None)
        if found.name == sampler and schedule:
            # Only a name without a suffix leaves the schedule to the other value.
            label = registry.schedule_named(schedule).label
        is_own = registry.schedule_named(label).name == found.default_schedule
    except RequestError:
        return sampler, schedule
    return found.name, "Automatic" if is_own else label


def _overrides(values: Mapping[str, ReadValue], options: Snapshot) -> dict[str, OptionValue]:
    known = defaults()
    overrides: dict[str, OptionValue] = {}
    for key, option in _OPTIONS:
        value = values.get(key)
        if value is None or (option == CHECKPOINT and options.flag("disable_weights_auto_swap")):
            continue
        meant = normalise(option, value, known[option])
        if meant != options[option]:
            overrides[option] = int(meant) if option in _WHOLE and isinstance(meant, float) else meant
    if values.get("Face restoration") is not None and not options.flag("face_restoration"):
        overrides["face_restoration"] = True
    return overrides
