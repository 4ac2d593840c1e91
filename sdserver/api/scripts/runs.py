"""Runs of a script's request."""

from typing import Any

from sdserver.api.requests import Request
from sdserver.api.scripts.script import Context, Run
from sdserver.api.translate.noise import RANDOM, RANDOM_SEEDS
from sdserver.api.translate.plan import Given


def fixed(context: Context, seed: int) -> int:
    """The seed, drawn once if it is to be random."""
    return context.random.randrange(RANDOM_SEEDS) if seed == RANDOM else seed


def with_fixed_seeds(context: Context) -> Request:
    """The request with seeds that stay the same for all runs."""
    request = context.request
    return changed(request, seed=fixed(context, request.seed), subseed=fixed(context, request.subseed))


def changed(request: Request, **fields: Any) -> Request:
    """The request with other values in some fields."""
    return request.model_copy(update=fields)


def overridden(request: Request, **options: Any) -> Request:
    """The request with other values for some options."""
    return changed(request, override_settings={**(request.override_settings or {}), **options})


def saving_run(context: Context, request: Request) -> Run:
    """A run of images that are saved, and made a grid of, where the client's request wants it."""
    saves = context.request.save_images
    return Run(request, _given(context), keeps_samples=saves, keeps_grid=saves)


def image_run(context: Context, request: Request, index: int = 0, *, saves: bool | None = None) -> Run:
    """A run of one image of the client's request.

    Args:
        context: of the script.
        request: what is asked; its number of images does not count.
        index: the image's place, which says with what picture img2img begins.
        saves: whether it is saved, None for as the client's request says.
    """
    given = _given(context)
    # Too many pictures are refused where the run is resolved.
    if len(context.pictures) <= context.request.batch_size and context.pictures:
        own = index % context.request.batch_size % len(context.pictures)
        given = Given(pictures=(context.pictures[own],), mask=context.mask)
    saves = context.request.save_images if saves is None else saves
    return Run(changed(request, batch_size=1, n_iter=1), given, keeps_samples=saves)


def _given(context: Context) -> Given:
    return Given(pictures=context.pictures, mask=context.mask)
