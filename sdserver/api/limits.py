"""The ranges of request fields. AUTOMATIC1111 has none and fails somewhere inside."""

from collections.abc import Mapping

from sdserver.api.config import Limits
from sdserver.api.options import Snapshot
from sdserver.api.schemas import Txt2ImgRequest
from sdserver.errors import InvalidField

MAX_SEED = 2**32 - 1
_MODEL_SIGMAS = (0.03, 14.0)
"""About the ends of every Stable Diffusion model's own range."""

_RANGES: Mapping[str, tuple[float, float]] = {
    "cfg_scale": (-1000, 1000),
    "subseed_strength": (-10, 10),
    "eta": (-100, 100),
    "s_churn": (0, 1000),
    "s_tmin": (0, 1000),
    "s_tmax": (0, 1e9),
    "s_noise": (-100, 100),
}


def check_limits(request: Txt2ImgRequest, limits: Limits) -> None:
    """See that the request's numbers are in range and its prompts not too long.

    Raises:
        InvalidField: names the first field that is not, and its range.
    """
    _between("steps", request.steps, 1, limits.max_steps)
    _between("width", request.width, limits.min_side, limits.max_width)
    _between("height", request.height, limits.min_side, limits.max_height)
    if request.width * request.height > limits.max_pixels:
        message = f"The picture is too large: width times height must be at most {limits.max_pixels:,}."
        raise InvalidField("width", message)
    _between("batch_size", request.batch_size, 1, limits.max_images)
    _between("n_iter", request.n_iter, 1, limits.max_images)
    images = request.batch_size * request.n_iter
    if images > limits.max_images:
        message = f"Too many pictures: batch_size times n_iter must be at most {limits.max_images}."
        raise InvalidField("n_iter", message)
    _between("seed", request.seed, -1, MAX_SEED - images + 1)
    _between("subseed", request.subseed, -1, MAX_SEED - images + 1)
    for field, (low, high) in _RANGES.items():
        value = getattr(request, field)
        if value is not None:
            _between(field, value, low, high)
    if request.seed_resize_from_w > 0 and request.seed_resize_from_h > 0:
        _between("seed_resize_from_w", request.seed_resize_from_w, limits.min_side, limits.max_width)
        _between("seed_resize_from_h", request.seed_resize_from_h, limits.min_side, limits.max_height)
    for field in ("prompt", "negative_prompt"):
        if len(getattr(request, field)) > limits.max_prompt:
            message = f"The field {field!r} is too long: at most {limits.max_prompt:,} characters."
            raise InvalidField(field, message)


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


def _between(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidField(field, f"The field {field!r} must be from {low:,} to {high:,}.")
