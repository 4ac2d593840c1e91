"""What the axes of an X/Y/Z plot may be: AUTOMATIC1111's list, in its order, which requests count in."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from sdserver.api.options import CHECKPOINT
from sdserver.api.requests import Request
from sdserver.api.samplers import choose
from sdserver.api.scripts.checks import MAX_SHOWN, refused
from sdserver.api.scripts.runs import changed, overridden
from sdserver.api.scripts.script import Context, Tab
from sdserver.errors import UnknownSampler

Kind = Literal["none", "whole", "number", "text", "orders"]
Apply = Callable[[Context, Request, Any, Sequence[Any]], Request]
"""Sets an axis's value in a cell's request: the value, and all of the axis."""

MAX_WORDS: Final = 6
"""Whose orders are tried: 720."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A kind of axis.

    Attributes:
        kind: of its values; "orders": all orders of the words that are given.
        apply: sets a value.
        is_named: whether its labels begin with the axis's name.
        cost: how slow it is to change, 0 to 1; the slowest changes least often.
        has_choices: whether its values come as a list, not as text.
        tab: where it is found only.
    """

    label: str
    kind: Kind
    apply: Apply
    is_named: bool = True
    cost: float = 0.0
    has_choices: bool = False
    tab: Tab | None = None


def axes_of(tab: Tab) -> tuple[Axis, ...]:
    """Those of a tab, in the order that requests count in."""
    return tuple(axis for axis in AXES if axis.tab in (None, tab))


def shown(axis: Axis, value: Any) -> str:
    """A value as the legend has it."""
    if axis.kind == "none":
        return ""
    if isinstance(value, float):
        value = round(value, 8)
    if isinstance(value, tuple):
        return ", ".join(value)
    if axis.label in _FILES:
        value = re.split(r"[/\\]", value)[-1]
    return f"{axis.label}: {value}" if axis.is_named else str(value)


def _nothing(_context: Context, request: Request, _value: Any, _values: Sequence[Any]) -> Request:
    return request


def _field(name: str) -> Apply:
    def apply(_context: Context, request: Request, value: Any, _values: Sequence[Any]) -> Request:
        # Some fields of img2img do nothing in txt2img, which has none of them.
        return changed(request, **{name: value}) if name in type(request).model_fields else request

    return apply


def _option(key: str) -> Apply:
    def apply(_context: Context, request: Request, value: Any, _values: Sequence[Any]) -> Request:
        return overridden(request, **{key: value})

    return apply


def _switch(key: str) -> Apply:
    def apply(_context: Context, request: Request, value: str, _values: Sequence[Any]) -> Request:
        if value.lower() not in ("true", "false"):
            raise refused(f"The value {value[:MAX_SHOWN]!r} must be True or False.")
        return overridden(request, **{key: value.lower() == "true"})

    return apply


def _replace(context: Context, request: Request, value: str, values: Sequence[str]) -> Request:
    searched, most = values[0], context.sources.config.limits.max_prompt
    found = {name: getattr(request, name) for name in ("prompt", "negative_prompt")}
    if not any(searched in text for text in found.values()):
        shortened = searched[:MAX_SHOWN]
        raise refused(f"Prompt S/R did not find {shortened} in prompt or negative prompt.")
    for text in found.values():
        if len(text) + text.count(searched) * (len(value) - len(searched)) > most:
            raise refused(f"Prompt S/R makes a prompt too long: at most {most:,} characters are allowed.")
    return changed(request, **{name: text.replace(searched, value) for name, text in found.items()})


def _order(_context: Context, request: Request, value: Sequence[str], _values: Sequence[Any]) -> Request:
    """The words change places: where the first of them stood, the first of this order stands."""
    prompt, parts = request.prompt, []
    for word in sorted(value, key=prompt.find):
        before, is_there, prompt = prompt.partition(word) if word else (prompt, "", "")
        if not is_there:
            raise refused(f"Prompt order did not find {word[:MAX_SHOWN]!r} in the prompt.")
        parts.append(before)
    return changed(request, prompt="".join(map("".join, zip(parts, value, strict=True))) + prompt)


def _sampler(name: str) -> Apply:
    def apply(_context: Context, request: Request, value: str, _values: Sequence[Any]) -> Request:
        try:
            choose(value, None)
        except UnknownSampler:
            message = f"Unknown sampler: {value[:MAX_SHOWN]}; GET /sdapi/v1/samplers lists those there are."
            raise refused(message) from None
        return _field(name)(_context, request, value, _values)

    return apply


def _checkpoint(context: Context, request: Request, value: str, _values: Sequence[Any]) -> Request:
    return overridden(request, **{CHECKPOINT: context.sources.checkpoints.find_close(value).title})


def _vae(_context: Context, request: Request, value: str, _values: Sequence[Any]) -> Request:
    is_automatic = value.strip().lower() in ("auto", "automatic")
    return overridden(request, sd_vae="Automatic" if is_automatic else value)


def _styles(_context: Context, request: Request, value: str, _values: Sequence[Any]) -> Request:
    return changed(request, styles=[*(request.styles or []), *value.split(",")])


def _unipc_order(_context: Context, request: Request, value: int, _values: Sequence[Any]) -> Request:
    return overridden(request, uni_pc_order=min(value, request.steps - 1))


def _faces(_context: Context, request: Request, value: str, _values: Sequence[Any]) -> Request:
    for model in ("CodeFormer", "GFPGAN"):
        if value.lower() == model.lower():
            return overridden(changed(request, restore_faces=True), face_restoration_model=model)
    return changed(request, restore_faces=value.lower() in ("true", "yes", "y", "1"))


def _size(_context: Context, request: Request, value: str, _values: Sequence[Any]) -> Request:
    match = re.fullmatch(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", value)
    if match is None:
        raise refused(f"Invalid size in XYZ plot: {value[:MAX_SHOWN]}; write such as 512x768.")
    return changed(request, width=int(match[1]), height=int(match[2]))


_whole = partial(Axis, kind="whole")
_number = partial(Axis, kind="number")
_text = partial(Axis, kind="text")
_choice = partial(Axis, kind="text", has_choices=True)
_FILES: Final = frozenset({"Checkpoint name", "Refiner checkpoint"})
_HYPERTILE: Final = "[Hypertile] "

_PLAIN: Final[tuple[Axis, ...]] = (
    Axis("Nothing", "none", _nothing),
    _whole("Seed", apply=_field("seed")),
    _whole("Var. seed", apply=_field("subseed")),
    _number("Var. strength", apply=_field("subseed_strength")),
    _whole("Steps", apply=_field("steps")),
    _whole("Hires steps", apply=_field("hr_second_pass_steps"), tab="txt2img"),
    _number("CFG Scale", apply=_field("cfg_scale")),
    _number("Image CFG Scale", apply=_field("image_cfg_scale"), tab="img2img"),
    _text("Prompt S/R", apply=_replace, is_named=False),
    Axis("Prompt order", "orders", _order),
    _choice("Sampler", apply=_sampler("sampler_name"), is_named=False),
    _choice("Hires sampler", apply=_sampler("hr_sampler_name"), is_named=False, tab="txt2img"),
    _choice("Checkpoint name", apply=_checkpoint, is_named=False, cost=1.0),
    _number("Negative Guidance minimum sigma", apply=_field("s_min_uncond")),
    _number("Sigma Churn", apply=_field("s_churn")),
    _number("Sigma min", apply=_field("s_tmin")),
    _number("Sigma max", apply=_field("s_tmax")),
    _number("Sigma noise", apply=_field("s_noise")),
    _choice("Schedule type", apply=_field("scheduler")),
    _number("Schedule min sigma", apply=_option("sigma_min")),
    _number("Schedule max sigma", apply=_option("sigma_max")),
    _number("Schedule rho", apply=_option("rho")),
    _number("Beta schedule alpha", apply=_option("beta_dist_alpha")),
    _number("Beta schedule beta", apply=_option("beta_dist_beta")),
    _number("Eta", apply=_field("eta")),
    _whole("Clip skip", apply=_option("CLIP_stop_at_last_layers")),
    _number("Denoising", apply=_field("denoising_strength")),
    _number("Initial noise multiplier", apply=_field("initial_noise_multiplier")),
    _number("Extra noise", apply=_option("img2img_extra_noise")),
    _choice("Hires upscaler", apply=_field("hr_upscaler"), tab="txt2img"),
    _number("Cond. Image Mask Weight", apply=_option("inpainting_mask_weight"), tab="img2img"),
    _choice("VAE", apply=_vae, cost=0.7),
    _choice("Styles", apply=_styles),
    _whole("UniPC Order", apply=_unipc_order, cost=0.5),
    _text("Face restore", apply=_faces, is_named=False),
    _number("Token merging ratio", apply=_option("token_merging_ratio")),
    _number("Token merging ratio high-res", apply=_option("token_merging_ratio_hr")),
    _choice("Always discard next-to-last sigma", apply=_switch("always_discard_next_to_last_sigma")),
    _choice("SGM noise multiplier", apply=_switch("sgm_noise_multiplier")),
    _choice("Refiner checkpoint", apply=_field("refiner_checkpoint"), is_named=False, cost=1.0),
    _number("Refiner switch at", apply=_field("refiner_switch_at")),
    _choice("RNG source", apply=_option("randn_source")),
    _choice("FP8 mode", apply=_option("fp8_storage"), cost=0.9),
    _text("Size", apply=_size),
)

HYPERTILE_AXES: Final[tuple[Axis, ...]] = (
    _choice(f"{_HYPERTILE}Unet First pass Enabled", apply=_switch("hypertile_enable_unet")),
    _choice(f"{_HYPERTILE}Unet Second pass Enabled", apply=_switch("hypertile_enable_unet_secondpass")),
    _whole(f"{_HYPERTILE}Unet Max Depth", apply=_option("hypertile_max_depth_unet")),
    _whole(f"{_HYPERTILE}Unet Max Tile Size", apply=_option("hypertile_max_tile_unet")),
    _whole(f"{_HYPERTILE}Unet Swap Size", apply=_option("hypertile_swap_size_unet")),
    _choice(f"{_HYPERTILE}VAE Enabled", apply=_switch("hypertile_enable_vae")),
    _whole(f"{_HYPERTILE}VAE Max Depth", apply=_option("hypertile_max_depth_vae")),
    _whole(f"{_HYPERTILE}VAE Max Tile Size", apply=_option("hypertile_max_tile_vae")),
    _whole(f"{_HYPERTILE}VAE Swap Size", apply=_option("hypertile_swap_size_vae")),
)
"""AUTOMATIC1111 has them only while its page is served."""

AXES: Final = (*_PLAIN, *HYPERTILE_AXES)
