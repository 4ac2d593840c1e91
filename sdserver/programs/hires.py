"""The second pass of hires fix: the first pass's latent or picture enlarged and denoised once more."""

from collections.abc import Generator
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sdserver.calls import Call, Decode, DeviceCall, Encode, UseModel
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Hires, Size, Txt2Img
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Wording
from sdserver.programs.denoise import Denoised
from sdserver.programs.inpainting_input import all_to_paint, masked_picture
from sdserver.programs.passes import CELL, Given, Pass, counted, run_pass
from sdserver.programs.pixels import to_pixels
from sdserver.programs.upscale import upscale


class LatentMode(NamedTuple):
    """How torch is to interpolate a latent."""

    mode: str
    antialias: bool = False


LATENT_MODES = MappingProxyType(
    {
        "Latent": LatentMode("bilinear"),
        "Latent (antialiased)": LatentMode("bilinear", antialias=True),
        "Latent (bicubic)": LatentMode("bicubic"),
        "Latent (bicubic antialiased)": LatentMode("bicubic", antialias=True),
        "Latent (nearest)": LatentMode("nearest"),
        "Latent (nearest-exact)": LatentMode("nearest-exact"),
    }
)


def first_picture(hires: Hires, first: Denoised) -> Generator[Decode, Any, Picture | None]:
    """The first pass's picture, None where it is neither enlarged nor kept.

    Where only its latent is enlarged, the VAE itself decodes what is kept, whatever else decodes the job's
    latents: A1111's way.
    """
    model = first.model
    if hires.upscaler in LATENT_MODES:
        if not hires.keeps_first:
            return None
        model = replace(model, decoder="full")
    picture: Picture = yield Decode(model, first.latent)
    return picture


def second_pass(
    job: Txt2Img, hires: Hires, model: ModelFacts, first: Denoised, one: Pass, picture: Picture | None
) -> Generator[Call | list[DeviceCall], Any, Denoised]:
    """Enlarge what the first pass made and denoise it, from the same seeds' noise in the new size.

    Args:
        job: what is asked.
        hires: its second pass.
        model: what the first pass began on.
        first: how that ended.
        one: what it did.
        picture: what `first_picture` gave.

    Raises:
        Interrupted: before the first evaluation was done.
    """
    encoder = model if hires.first_networks else None
    if hires.upscaler in LATENT_MODES:
        picture = None
    if hires.model != first.model or hires.model != model.model:
        model = yield UseModel(hires.model)
    one.findings.inpainting |= model.inpainting
    if picture is None:
        latent = enlarged_latent(first.latent, hires)
    else:
        picture = yield from upscale(
            picture, hires.upscale_to, hires.upscaler, hires.upscaler_path, hires.tiles
        )
        latent = yield Encode(model.model, to_pixels(picture, model.device))
    concat: Tensor | None = None
    if model.inpainting:
        concat = cropped((yield from beside_the_latent(model, hires, latent, picture)), hires)
    latent = cropped(latent, hires)
    height, width = latent.shape[1:]
    shape = (model.latent_channels, height, width)
    second = replace(
        one,
        sampling=hires.sampling,
        start=hires.start,
        wording=hires_wording(job, hires),
        refiner=hires.refiner,
        before=first.evaluations,
        after=0,
        encoder=encoder,
    )
    return (yield from run_pass(second, model, shape, Given(latent, concat=concat)))


def beside_the_latent(
    model: ModelFacts, hires: Hires, latent: Tensor, picture: Picture | None
) -> Generator[Decode | Encode, Any, Tensor]:
    """What an inpainting checkpoint takes beside the latent, (5, h, w): the picture, as far as not hidden.

    Args:
        model: of the second pass.
        hires: the second pass.
        latent: the enlarged one.
        picture: the enlarged one, None where only the latent was enlarged.
    """
    weight = hires.conditioning_weight
    if weight >= 1:
        return (yield from all_to_paint(model, hires.upscale_to))
    if picture is None:
        pixels: Tensor = yield Decode(model.model, latent, as_values=True)
    else:
        # A1111 forgets to stretch an enlarged picture's 0..1 to -1..1 here.
        pixels = (to_pixels(picture, model.device) + 1) / 2
    return (yield from masked_picture(model, pixels, torch.ones_like(pixels[:1]), weight))


def hires_wording(job: Txt2Img, hires: Hires) -> Wording:
    """What the second pass is told. A1111 tells SDXL the size before the overhang is cut off."""
    return Wording(
        hires.prompt,
        counted(job.sampling, job.sampling.steps),
        counted(hires.sampling, hires.sampling.steps),
        hires.upscale_to,
        job.guidance.padding,
    )


def enlarged_latent(latent: Tensor, hires: Hires) -> Tensor:
    """The latent (channels, h, w) in the size of `hires.upscale_to`."""
    how, target = LATENT_MODES[hires.upscaler], hires.upscale_to
    size = (target.height // CELL, target.width // CELL)
    return interpolate(latent[None], size=size, mode=how.mode, antialias=how.antialias)[0]


def cropped(latent: Tensor, hires: Hires) -> Tensor:
    """The latent (channels, h, w) without what hangs over `hires.size`, cut off on both sides."""
    over_x, over_y = overhang(hires.upscale_to, hires.size)
    height, width = latent.shape[1:]
    return latent[:, over_y // 2 : height - (over_y + 1) // 2, over_x // 2 : width - (over_x + 1) // 2]


def overhang(scaled: Size, size: Size) -> tuple[int, int]:
    """How many cells of the latent hang over, in width and height."""
    return ((scaled.width - size.width) // CELL, (scaled.height - size.height) // CELL)
