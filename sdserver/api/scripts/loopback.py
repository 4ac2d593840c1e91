"""AUTOMATIC1111's "Loopback": what was painted is painted over again and again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from sdserver.api.interrogate import CAPTIONS, TAGS
from sdserver.api.requests import Img2ImgRequest
from sdserver.api.scripts.checks import Values
from sdserver.api.scripts.joined import (
    grid_of,
    grid_pictures,
    images_of,
    info_of,
    infotext_of,
    picture_request,
    with_fixed_seeds,
)
from sdserver.api.scripts.script import (
    Argument,
    Context,
    Describing,
    Done,
    Outcome,
    Run,
    Script,
    ScriptPicture,
    Steps,
)
from sdserver.api.translate.plan import Given
from sdserver.errors import MissingModel

CURVES: Final = ("Aggressive", "Linear", "Lazy")
INTERROGATORS: Final = ("None", "CLIP", "DeepBooru")
ARGUMENTS: Final = (
    Argument("Loops", 4, 1, 32, 1),
    Argument("Final denoising strength", 0.5, 0, 1, 0.01),
    Argument("Denoising strength curve", "Linear", choices=CURVES),
    Argument("Append interrogated prompt at each iteration", "None", choices=INTERROGATORS),
)
MOST_LOOPS: Final = 1000
ORIGINAL: Final = 1
"""`inpainting_fill`: what was painted stays under the mask."""


@dataclass(frozen=True, slots=True)
class Loops:
    """How often, and how strong each time.

    Attributes:
        count: at least 1.
        first, last: denoising strengths.
        curve: one of `CURVES`.
        model: what describes in a loop's prompt what it begins with; see `Describing`. Empty for nothing.
    """

    count: int
    first: float
    last: float
    curve: str
    model: str = ""

    def strength(self, loop: int) -> float:
        """The denoising strength of a loop, the first being 0."""
        if self.count == 1:
            return self.first
        share = loop / (self.count - 1)
        if self.curve == "Aggressive":
            share = math.sin(share * math.pi / 2)
        elif self.curve == "Lazy":
            share = 1 - math.cos(share * math.pi / 2)
        return self.first + (self.last - self.first) * share


@dataclass(slots=True, eq=False)
class _Chain:
    """One batch on its way.

    Attributes:
        pictures: what its next loop begins with.
        made: what its loops made, with their infotexts.
        is_over: whether it was stopped.
    """

    pictures: tuple[Image.Image, ...]
    made: list[tuple[Image.Image, str]]
    is_over: bool = False


def begin(context: Context, arguments: Sequence[Any]) -> Steps:
    """Check the arguments; see `Script.begin`.

    Raises:
        MissingModel: a picture is to be described, and there is no network for it.
    """
    values = Values(ARGUMENTS, arguments)
    request = picture_request(context)
    loops = Loops(
        values.whole(0, 1, MOST_LOOPS),
        request.denoising_strength or 0.0,
        values.number(1, 0, 1),
        values.choice(2, CURVES),
        _model(context, values.choice(3, INTERROGATORS)),
    )
    images = loops.count * request.n_iter
    context.expect(images)
    return _steps(context, with_fixed_seeds(context, request, images), loops)


def _model(context: Context, interrogator: str) -> str:
    """What describes pictures; empty for nothing. It looks whether the files are there."""
    none, clip, _ = INTERROGATORS
    if interrogator == none:
        return ""
    networks = context.sources.networks
    try:
        _ = networks.captioner() if interrogator == clip else networks.labeller()
    except MissingModel as error:
        raise MissingModel(
            f"No prompt can be appended by {interrogator}: choose {none!r}, or install it. {error}"
        ) from error
    return CAPTIONS if interrogator == clip else TAGS


def _steps(context: Context, request: Img2ImgRequest, loops: Loops) -> Steps:
    """Run the chains of all batches side by side: none depends on another."""
    chains = [_Chain(context.pictures, []) for _ in range(request.n_iter)]
    first: Done | None = None
    last: Done | None = None
    for loop in range(loops.count):
        going = [(place, chain) for place, chain in enumerate(chains) if not chain.is_over]
        if not going or (loop > 0 and context.is_interrupted()):
            break
        runs: list[Run] = []
        for place, chain in going:
            text = (yield Describing(chain.pictures[0], loops.model)) if loops.model else ""
            runs.append(_run(context, _with(request, text), loops, chain, loop, place * loops.count))
        done: list[Done] = yield runs
        first, last = first or done[0], done[-1]
        for (_, chain), found in zip(going, done, strict=True):
            _follow(chain, found)
    assert first is not None and last is not None  # noqa: S101, PT018 - there is at least one loop
    return _outcome(context, chains, first, last)


def _with(request: Img2ImgRequest, text: str) -> Img2ImgRequest:
    """The request with a picture's description behind its prompt."""
    parts = [part for part in (request.prompt, text) if part]
    return request.model_copy(update={"prompt": ", ".join(parts)}) if text else request


def _run(
    context: Context, request: Img2ImgRequest, loops: Loops, chain: _Chain, loop: int, before: int
) -> Run:
    fields = {
        "n_iter": 1,
        "batch_size": 1,
        "seed": request.seed + before + loop,
        "denoising_strength": loops.strength(loop),
        "inpainting_fill": ORIGINAL if loop > 0 else request.inpainting_fill,
    }
    given = Given(
        pictures=chain.pictures,
        mask=context.mask,
        colours=context.pictures[0],
        extra={"Final denoising strength": loops.last, "Denoising curve": loops.curve},
    )
    return Run(request.model_copy(update=fields), given, keeps_samples=request.save_images)


def _follow(chain: _Chain, done: Done) -> None:
    """Go on with what a loop made; a loop that was stopped does not count, as in AUTOMATIC1111."""
    images = images_of(done)
    chain.is_over = done.interrupted or not images
    if not chain.is_over:
        chain.pictures = (images[0],)
        chain.made.append((images[0], infotext_of(done)))


def _outcome(context: Context, chains: Sequence[_Chain], first: Done, last: Done) -> Outcome:
    """Every loop's picture of a single batch, else the last one of each; a row of them before."""
    made = chains[0].made if len(chains) == 1 else [made for chain in chains for made in chain.made[-1:]]
    shown = [ScriptPicture(image, text) for image, text in made]
    images = [image for image, _ in made]
    grid = grid_of(context, images, rows=1) if len(images) > 1 else None
    if grid is not None:
        shown = [*grid_pictures(context, grid, infotext_of(first)), *shown]
    return Outcome(tuple(shown), info_of(first, last, sum(picture.is_told for picture in shown)))


SCRIPT: Final = Script("Loopback", ("img2img",), ARGUMENTS, begin)
