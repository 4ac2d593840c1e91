"""AUTOMATIC1111's "img2img alternative test": begins with noise from which the picture itself would come."""

from collections.abc import Sequence
from typing import Any, Final

from sdserver.api.requests import Img2ImgRequest
from sdserver.api.samplers import choose, choose_as_a1111
from sdserver.api.scripts.checks import Values
from sdserver.api.scripts.joined import picture_request
from sdserver.api.scripts.script import Argument, Context, Done, Outcome, Run, Script, ScriptPicture, Steps
from sdserver.api.translate.plan import Given, Sources
from sdserver.jobs.job import Recovery

ARGUMENTS: Final = (
    Argument("", "* `CFG Scale` should be 2 or lower."),
    Argument("Override `Sampling method` to Euler?(this method is built for it)", True),
    Argument("Override `prompt` to the same value as `original prompt`?(and `negative prompt`)", True),
    Argument("Original prompt", ""),
    Argument("Original negative prompt", ""),
    Argument("Override `Sampling Steps` to the same value as `Decode steps`?", True),
    Argument("Decode steps", 50, 1, 150, 1),
    Argument("Override `Denoising strength` to 1?", True),
    Argument("Decode CFG scale", 1.0, 0.0, 15.0, 0.1),
    Argument("Randomness", 0.0, 0.0, 1.0, 0.01),
    Argument("Sigma adjustment for finding noise for image", False),
)
SAMPLER: Final = "Euler"
MOST_CFG: Final = 1000


def begin(context: Context, arguments: Sequence[Any]) -> Steps:
    """Check the arguments; see `Script.begin`."""
    values = Values(ARGUMENTS, arguments)
    request, limits = picture_request(context), context.sources.config.limits
    recovery = Recovery(
        positive=values.text(3, limits.max_prompt),
        negative=values.text(4, limits.max_prompt),
        steps=values.whole(6, 1, limits.max_steps),
        cfg_scale=values.number(8, 0, MOST_CFG),
        randomness=values.number(9, 0, 1),
        sigma_adjustment=values.flag(10),
    )
    fields: dict[str, Any] = {}
    if values.flag(1):
        fields |= {"sampler_name": SAMPLER, "scheduler": _schedule(request, context.sources)}
    if values.flag(2):
        fields |= {"prompt": recovery.positive, "negative_prompt": recovery.negative}
    if values.flag(5):
        fields["steps"] = recovery.steps
    if values.flag(7):
        fields["denoising_strength"] = 1.0
    context.expect(request.batch_size * request.n_iter)
    return _steps(context, request.model_copy(update=fields), recovery)


def _schedule(request: Img2ImgRequest, sources: Sources) -> str:
    """The schedule, also where the name of the sampler holds it: only the sampler is replaced."""
    chosen = choose_as_a1111 if sources.config.a1111_quirks else choose
    return chosen(request.sampler_name or request.sampler_index, request.scheduler).label


def _steps(context: Context, request: Img2ImgRequest, recovery: Recovery) -> Steps:
    given = Given(
        pictures=context.pictures,
        mask=context.mask,
        extra={
            "Decode prompt": recovery.positive,
            "Decode negative prompt": recovery.negative,
            "Decode CFG scale": recovery.cfg_scale,
            "Decode steps": recovery.steps,
            "Randomness": recovery.randomness,
            "Sigma Adjustment": recovery.sigma_adjustment,
        },
        recovery=recovery,
    )
    keeps = request.save_images
    done: list[Done] = yield [Run(request, given, keeps_samples=keeps, keeps_grid=keeps)]
    (one,) = done
    pictures = zip(one.pictures, one.texts, strict=True)
    return Outcome(tuple(ScriptPicture(image, text) for image, text in pictures), one.info)


SCRIPT: Final = Script("img2img alternative test", ("img2img",), ARGUMENTS, begin)
