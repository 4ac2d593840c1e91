"""Which values AUTOMATIC1111's options may have here: kinds, choices and ranges.

The data file `options.json` holds every option of AUTOMATIC1111 1.10 with its default; a default's
type is the option's kind.
"""

import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files

from pydantic_core import PydanticCustomError

from sdserver.api import coerce
from sdserver.errors import InvalidField
from sdserver.images.codec import FORMATS

OptionValue = None | bool | int | float | str | list[str]

RESTRICTED = frozenset(
    {
        "api_enable_requests",
        "api_forbid_local_requests",
        "api_useragent",
        "hypertile_explanation",
        "infotext_explanation",
        "profiling_explanation",
        "sd_vae_explanation",
        "settings_in_ui",
    }
)
"""Read-only over the API, as in AUTOMATIC1111: setting them is silently ignored. Some are mere texts."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "samples_format": FORMATS,
    "grid_format": FORMATS,
    "save_images_replace_action": ("Replace", "Add number suffix"),
    "randn_source": ("GPU", "CPU", "NV"),
    "emphasis": ("Original", "No norm", "Ignore", "None"),
    "sd_noise_schedule": ("Default", "Zero Terminal SNR"),
    "hires_fix_refiner_pass": ("first pass", "second pass", "both passes"),
    "uni_pc_variant": ("bh1", "bh2", "vary_coeff"),
    "uni_pc_skip_type": ("time_uniform", "time_quadratic", "logSNR"),
    "sd_vae_encode_method": ("Full", "TAESD"),
    "sd_vae_decode_method": ("Full", "TAESD"),
    "fp8_storage": ("Disable", "Enable for SDXL", "Enable"),
}

RANGES: Mapping[str, tuple[float, float]] = {
    "CLIP_stop_at_last_layers": (1, 12),
    "comma_padding_backtrack": (0, 74),
    "jpeg_quality": (1, 100),
    "img_downscale_threshold": (0, 1e6),
    "sd_checkpoints_limit": (1, 10),
    "sd_checkpoint_cache": (0, 10),
    "sd_vae_checkpoint_cache": (0, 10),
    "target_side_length": (1, 65_500),
    "n_rows": (-1, 1000),
    "directories_max_prompt_words": (1, 100),
    "eta_noise_seed_delta": (-(2**31), 2**31 - 1),
    "eta_ddim": (-100, 100),
    "eta_ancestral": (-100, 100),
    "s_churn": (0, 1000),
    "s_tmin": (0, 1000),
    "s_tmax": (0, 1e9),
    "s_noise": (-100, 100),
    "sigma_min": (0, 1000),
    "sigma_max": (0, 1000),
    "rho": (0, 100),
    "beta_dist_alpha": (0.01, 100),
    "beta_dist_beta": (0.01, 100),
    "uni_pc_order": (1, 50),
    "s_min_uncond": (0, 1000),
    "skip_early_cond": (0, 1),
    "sdxl_crop_top": (0, 8192),
    "sdxl_crop_left": (0, 8192),
    "sdxl_refiner_high_aesthetic_score": (-100, 100),
    "sdxl_refiner_low_aesthetic_score": (-100, 100),
    "extra_networks_default_multiplier": (-1000, 1000),
    "initial_noise_multiplier": (0, 100),
    "img2img_extra_noise": (0, 100),
    "inpainting_mask_weight": (0, 1),
    "code_former_weight": (0, 1),
    "token_merging_ratio": (0, 1),
    "token_merging_ratio_img2img": (0, 1),
    "token_merging_ratio_hr": (0, 1),
    "hypertile_max_depth_unet": (0, 3),
    "hypertile_max_tile_unet": (0, 8192),
    "hypertile_swap_size_unet": (1, 64),
    "hypertile_max_depth_vae": (0, 3),
    "hypertile_max_tile_vae": (0, 8192),
    "hypertile_swap_size_vae": (1, 64),
    "ESRGAN_tile": (0, 4096),
    "ESRGAN_tile_overlap": (0, 1024),
    "interrogate_clip_num_beams": (1, 16),
    "interrogate_clip_min_length": (1, 128),
    "interrogate_clip_max_length": (5, 256),
    "interrogate_clip_dict_limit": (0, 1e5),
    "interrogate_deepbooru_score_threshold": (0, 1),
}

COLORS = frozenset(
    {
        "grid_background_color",
        "grid_text_active_color",
        "grid_text_inactive_color",
        "img2img_background_color",
    }
)

_WHOLE = (-(2**63), 2**64 - 1)
"""What JSON can be relied on to hold."""

MAX_TEXT = 10_000
MAX_ITEMS = 1_000
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


def defaults() -> dict[str, OptionValue]:
    """Every option of AUTOMATIC1111 1.10 with its default, in its order."""
    text = files("sdserver.api").joinpath("data/options.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def normalise(key: str, value: object, default: OptionValue) -> OptionValue:
    """A value as it is stored: of the default's kind, within the option's range.

    Numbers may come as text and whole numbers as floats; null means the default.

    Raises:
        InvalidField: it is of another kind, or out of range.
    """
    if value is None:
        return default
    try:
        result = _convert(value, default)
    except PydanticCustomError as error:
        raise InvalidField(key, f"The option {key!r} cannot be set: {error.message()}.") from None
    _check(key, result)
    return result


def _convert(value: object, default: OptionValue) -> OptionValue:
    match default:
        case bool():
            return coerce.to_bool(value)
        case int():
            return coerce.to_int(value)
        case float():
            return coerce.to_float(value)
        case list():
            return [coerce.to_str(item) for item in coerce.to_list(value)]
        case _:
            return coerce.to_str(value)


def _check(key: str, value: OptionValue) -> None:
    choices = CHOICES.get(key)
    if choices is not None and value not in choices:
        raise InvalidField(key, f"The option {key!r} must be one of {', '.join(choices)}.")
    low, high = RANGES.get(key, _WHOLE if isinstance(value, int) else (-math.inf, math.inf))
    if isinstance(value, int | float) and not low <= value <= high:
        raise InvalidField(key, f"The option {key!r} must be from {low:g} to {high:g}.")
    if key in COLORS and not _COLOR.fullmatch(str(value)):
        raise InvalidField(key, f"The option {key!r} must be a colour such as #ffffff.")
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MAX_ITEMS or any(isinstance(text, str) and len(text) > MAX_TEXT for text in texts):
        raise InvalidField(key, f"The option {key!r} is too long: at most {MAX_TEXT:,} characters.")
