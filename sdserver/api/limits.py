"""The ranges of request fields. AUTOMATIC1111 has none and fails somewhere inside."""

from collections.abc import Mapping

from sdserver.api.config import Limits
from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest, Request, Txt2ImgRequest
from sdserver.errors import InvalidField

MAX_SEED = 2**64 - 1
_WHOLE = (-(2**63), 2**64 - 1)
"""What an answer can repeat."""
MIN_EXACT_STRENGTH = 0.001
"""Where a pass runs a fixed number of steps, its schedule has that number divided by the strength."""
_MODEL_SIGMAS = (0.03, 14.0)
"""About the ends of every Stable Diffusion model's own range."""

_Ranges = Mapping[str, tuple[float, float]]

_RANGES: _Ranges = {
    "cfg_scale": (-1000, 1000),
    "subseed_strength": (-10, 10),
    "eta": (-100, 100),
    "s_churn": (0, 1000),
    "s_tmin": (0, 1000),
    "s_tmax": (0, 1e9),
    "s_noise": (-100, 100),
    "s_min_uncond": (0, 1000),
    "refiner_switch_at": (0, 1),
}
_PICTURE_RANGES: _Ranges = {
    "denoising_strength": (0, 1000),
    "mask_blur": (0, 512),
    "mask_blur_x": (0, 512),
    "mask_blur_y": (0, 512),
    "inpaint_full_res_padding": (0, 8192),
    "initial_noise_multiplier": (0, 100),
}
_PROMPTS = ("prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt")


def check_limits(request: Request, limits: Limits) -> None:
    """See that the request's numbers are in range and its prompts not too long.

    Raises:
        InvalidField: names the first field that is not, and its range.
    """
    _between("steps", request.steps, 1, limits.max_steps)
    _check_size(request, ("width", "height"), limits)
    _between("batch_size", request.batch_size, 1, limits.max_images)
    _between("n_iter", request.n_iter, 1, limits.max_images)
    images = request.batch_size * request.n_iter
    if images > limits.max_images:
        message = f"Too many pictures: batch_size times n_iter must be at most {limits.max_images}."
        raise InvalidField("n_iter", message)
    _between("seed", request.seed, -1, MAX_SEED - images + 1)
    _between("subseed", request.subseed, -1, MAX_SEED - images + 1)
    _check_ranges(request, _RANGES)
    if request.seed_resize_from_w > 0 and request.seed_resize_from_h > 0:
        _between("seed_resize_from_w", request.seed_resize_from_w, limits.min_side, limits.max_width)
        _between("seed_resize_from_h", request.seed_resize_from_h, limits.min_side, limits.max_height)
    for field in _PROMPTS:
        if len(getattr(request, field, "")) > limits.max_prompt:
            message = f"The field {field!r} is too long: at most {limits.max_prompt:,} characters."
            raise InvalidField(field, message)
    if isinstance(request, Img2ImgRequest):
        _check_ranges(request, _PICTURE_RANGES)
    else:
        _check_hires(request, limits)
    for field, value in request:
        if isinstance(value, int):
            _between(field, value, *_WHOLE)
    _check_work(request, images, limits)


def _check_work(request: Request, images: int, limits: Limits) -> None:
    """See that pixels times steps, over all pictures and both passes, are not too many."""
    if not limits.max_work:
        return
    work = request.width * request.height * request.steps
    if isinstance(request, Txt2ImgRequest) and request.enable_hr:
        width = request.hr_resize_x or int(request.width * request.hr_scale)
        height = request.hr_resize_y or int(request.height * request.hr_scale)
        work += width * height * (request.hr_second_pass_steps or request.steps)
    if work * images > limits.max_work:
        message = (
            "The request is too much work: width times height times steps, over all pictures, must be at "
            f"most {limits.max_work:,}."
        )
        raise InvalidField("steps", message)


def check_strength(strength: float, *, is_exact: bool) -> None:
    """See that a pass that starts from a picture can be run at this strength.

    Args:
        strength: the denoising strength.
        is_exact: whether it runs a fixed number of steps.

    Raises:
        InvalidField: it is out of range.
    """
    _between("denoising_strength", strength, *_PICTURE_RANGES["denoising_strength"])
    if is_exact and 0 < strength < MIN_EXACT_STRENGTH:
        message = f"The field 'denoising_strength' must be 0 or at least {MIN_EXACT_STRENGTH:g} here."
        raise InvalidField("denoising_strength", message)


def check_sigmas(options: Snapshot) -> None:
    """See that the options' limits of the schedule leave something between them.

    Raises:
        InvalidField: the least sigma is not below the greatest; where one is not set, the model's counts.
    """
    low = options.number("sigma_min") or _MODEL_SIGMAS[0]
    high = options.number("sigma_max") or _MODEL_SIGMAS[1]
    if low >= high:
        message = f"The option 'sigma_min' ({low:g}) must be below 'sigma_max' ({high:g})."
        raise InvalidField("sigma_min", message)


def _check_size(request: Request, fields: tuple[str, str], limits: Limits) -> None:
    width, height = (getattr(request, field) for field in fields)
    _between(fields[0], width, limits.min_side, limits.max_width)
    _between(fields[1], height, limits.min_side, limits.max_height)
    if width * height > limits.max_pixels:
        message = f"The picture is too large: width times height must be at most {limits.max_pixels:,}."
        raise InvalidField(fields[0], message)


def _check_hires(request: Txt2ImgRequest, limits: Limits) -> None:
    """The ranges of the second pass's fields; the sizes they come to are checked when they are known."""
    if request.firstphase_width or request.firstphase_height:
        _check_size(request, ("firstphase_width", "firstphase_height"), limits)
    if not request.enable_hr:
        return
    _between("hr_scale", request.hr_scale, 0.01, 100)
    _between("hr_second_pass_steps", request.hr_second_pass_steps, 0, limits.max_steps)
    _between("hr_resize_x", request.hr_resize_x, 0, limits.max_width)
    _between("hr_resize_y", request.hr_resize_y, 0, limits.max_height)


def _check_ranges(request: Request, ranges: _Ranges) -> None:
    for field, (low, high) in ranges.items():
        value = getattr(request, field)
        if value is not None:
            _between(field, value, low, high)


def _between(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidField(field, f"The field {field!r} must be from {low:,} to {high:,}.")
