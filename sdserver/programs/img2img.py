"""A picture from a picture and text: the job, read top to bottom."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from sdserver.calls import Decode, Encode, UseModel
from sdserver.errors import InvalidField
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Img2Img, Size
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Texts
from sdserver.programs.faces import finished
from sdserver.programs.findings import Findings
from sdserver.programs.inpainting_input import all_to_paint, masked_picture
from sdserver.programs.latent_masks import latent_mask
from sdserver.programs.passes import Given, Pass, latent_shape, run_pass, wording
from sdserver.programs.pixels import to_pixels, to_plane
from sdserver.programs.program import Outcome, Program
from sdserver.programs.recovery import recovered_noise


def img2img(job: Img2Img) -> Program:
    """Encode picture and prompt, denoise from their latent and the seed's noise, decode."""
    model: ModelFacts = yield UseModel(job.model)
    findings = Findings(inpainting=model.inpainting, fp8=model.is_fp8)
    pixels = to_pixels(job.init, model.device)
    latent: Tensor = yield Encode(model.model, pixels)
    shape = latent_shape(model, job.size)
    if job.resize_latent:
        latent = interpolate(latent[None], size=shape[1:], mode="bilinear")[0]
    mask = None
    if job.mask is not None:
        mask = latent_mask(job.mask, latent, job.noise)
        latent = mask.kept
    concat = (yield from beside_the_latent(job, model, pixels)) if model.inpainting else None
    texts, start, recovery, noise = Texts(), job.start, job.recovery, None
    if recovery is not None:
        noise = yield from recovered_noise(job, recovery, model, latent, texts, concat)
        start = replace(start, noise_multiplier=1.0)
    only = Pass(
        sampling=job.sampling,
        start=start,
        wording=wording(job.prompt, job.sampling, job.size, job.guidance),
        guidance=job.guidance,
        refiner=job.refiner,
        noise=job.noise,
        texts=texts,
        findings=findings,
        before=recovery.steps if recovery else 0,
    )
    denoised = yield from run_pass(only, model, shape, Given(latent, mask, concat, noise))
    # As in A1111, whose script for the recovery takes the place of what blends at the end.
    result = denoised.latent if mask is None or recovery else mask.blend(denoised.latent)
    new_parts = b"" if mask is None else mask.new_parts(result)
    picture: Picture = yield Decode(denoised.model, result)
    done = yield from finished(picture, job.faces)
    interrupted = denoised.interrupted or done.interrupted
    return Outcome(done.picture, interrupted, findings.used(), new_parts, before_faces=done.before)


def beside_the_latent(job: Img2Img, model: ModelFacts, pixels: Tensor) -> Generator[Encode, Any, Tensor]:
    """What an inpainting checkpoint takes beside the latent, (5, h, w).

    Raises:
        InvalidField: the latent is resized, but such a checkpoint needs the picture in its size.
    """
    if job.resize_latent:
        message = "An inpainting checkpoint cannot resize latents: choose another resize mode."
        raise InvalidField("resize_mode", message)
    if job.mask is None:
        return (yield from all_to_paint(model, Size(job.init.width, job.init.height)))
    mask = to_plane(job.mask.pixels, job.init.width, job.init.height, model.device)
    if job.mask.is_rounded:
        mask = mask.round()
    return (yield from masked_picture(model, pixels, mask, job.mask.conditioning_weight))
