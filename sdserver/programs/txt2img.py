"""A picture from text: the job, read top to bottom."""

from dataclasses import replace

from sdserver.calls import Decode, Interrupted, UseModel
from sdserver.jobs.events import Picture
from sdserver.jobs.job import Txt2Img
from sdserver.jobs.model import ModelFacts
from sdserver.programs.conditioning import Texts
from sdserver.programs.faces import finished
from sdserver.programs.findings import Findings
from sdserver.programs.hires import first_picture, second_pass
from sdserver.programs.inpainting_input import all_to_paint
from sdserver.programs.passes import Given, Pass, latent_shape, run_pass, wording
from sdserver.programs.program import Outcome, Program
from sdserver.sampling.plan import make_plan


def txt2img(job: Txt2Img) -> Program:
    """Encode the prompt, denoise from the seed's noise, once more enlarged if asked to, decode."""
    model: ModelFacts = yield UseModel(job.model)
    findings, hires = Findings(inpainting=model.inpainting, fp8=model.is_fp8), job.hires
    kept: Picture | None = None
    concat = (yield from all_to_paint(model, job.size)) if model.inpainting else None
    first = Pass(
        sampling=job.sampling,
        start=None,
        wording=wording(job.prompt, job.sampling, job.size, job.guidance),
        guidance=job.guidance,
        refiner=job.refiner,
        noise=job.noise,
        texts=Texts(),
        findings=findings,
        after=make_plan(hires.sampling, model, hires.start).evaluations if hires else 0,
    )
    denoised = yield from run_pass(first, model, latent_shape(model, job.size), Given(concat=concat))
    if hires and not denoised.interrupted:
        try:
            kept = yield from first_picture(hires, denoised)
            denoised = yield from second_pass(job, hires, model, denoised, first, kept)
        except Interrupted:
            # It came before the second pass had anything to show: the first one's picture stands.
            denoised = replace(denoised, interrupted=True)
    picture: Picture = yield Decode(denoised.model, denoised.latent)
    kept = kept if hires and hires.keeps_first else None
    done = yield from finished(picture, job.faces)
    interrupted = denoised.interrupted or done.interrupted
    return Outcome(done.picture, interrupted, findings.used(), first=kept, before_faces=done.before)
