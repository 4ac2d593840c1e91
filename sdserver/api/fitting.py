"""A1111's `upscaler_for_img2img`: what enlarges img2img's pictures where they have to become larger.

That is before anything begins, a picture that is smaller than the pass, and at the end a painted part that
is smaller than its place. What the upscaler leaves to be done, Lanczos does; all of it, where somebody
interrupts the request meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from PIL import Image

from sdserver.api.config import Limits
from sdserver.api.extras.plan import CELL, Target, check_network
from sdserver.api.translate.hires import SIMPLE_UPSCALERS, upscaler_tiles
from sdserver.api.translate.pictures import ENLARGER
from sdserver.api.translate.plan import PicturePlan, Plan
from sdserver.images.enlarge import filtered
from sdserver.images.finish import Finish
from sdserver.images.pictures import to_image, to_picture
from sdserver.images.resize import COVER, Unfitted, fitted_size, scaled
from sdserver.jobs.events import Finished
from sdserver.jobs.job import Enlarge, Size

if TYPE_CHECKING:
    from sdserver.api.work import Ends, Work

NO_UPSCALER: Final = SIMPLE_UPSCALERS[0]
BEFORE_CORRECTION: Final = "save_images_before_color_correction"

Images = tuple[Image.Image | None, ...]


async def with_fitted(work: "Work", plan: Plan, again: Callable[[Images], Plan]) -> Plan:
    """The plan with its pictures enlarged by the upscaler that the options name.

    Args:
        work: has the engine run what networks do.
        plan: of a request that is found to be sound.
        again: resolves it anew, on a worker thread, with what was made of each `PicturePlan.unfitted`.

    Raises:
        InvalidField: a picture is too large for a network.
        Refused: the queue is full, or the server is shutting down.
        JobError: a network failed.
    """
    pictures = plan.pictures
    if pictures is None or pictures.upscaler is None:
        return plan
    _check(plan, pictures, work.services.config.limits)
    if not any(pictures.unfitted):
        return plan
    images = await _enlarged(work, plan, "before", pictures.upscaler, pictures.unfitted)
    return await work.services.in_thread(partial(again, images))


async def with_fitted_results(work: "Work", plan: Plan, ends: "Ends", *, is_kept: bool) -> Plan:
    """The plan with painted parts enlarged, that become larger in their place.

    Args:
        work: has the engine run what networks do.
        plan: what was asked.
        ends: its jobs' ends, in order.
        is_kept: whether its pictures are saved.
    """
    pictures = plan.pictures
    if pictures is None or pictures.upscaler is None:
        return plan
    keeps = is_kept and plan.options.flag(BEFORE_CORRECTION)
    in_thread = work.services.in_thread
    unfitted = await in_thread(partial(_unfitted_results, pictures, ends, keeps=keeps))
    if not any(unfitted):
        return plan
    made = await _enlarged(work, plan, "after", pictures.upscaler, unfitted)
    count = len(pictures.finishes)
    finishes = tuple(
        replace(finish, fitted=one, fitted_uncorrected=one if finish.colours is None else other)
        for finish, one, other in zip(pictures.finishes, made[:count], made[count:], strict=True)
    )
    return replace(plan, pictures=replace(pictures, finishes=finishes))


def _unfitted_results(pictures: PicturePlan, ends: "Ends", *, keeps: bool) -> list[Unfitted | None]:
    """For each image its part with corrected colours; then for each that with its own, where it is kept."""
    found = [
        _unfitted(finish, end, is_corrected=True) for finish, end in zip(pictures.finishes, ends, strict=True)
    ]
    for finish, end in zip(pictures.finishes, ends, strict=True):
        wants = keeps and finish.colours is not None
        found.append(_unfitted(finish, end, is_corrected=False) if wants else None)
    return found


def _unfitted(finish: Finish, end: object, *, is_corrected: bool) -> Unfitted | None:
    return finish.unfitted(end.picture, is_corrected=is_corrected) if isinstance(end, Finished) else None


async def _enlarged(
    work: "Work", plan: Plan, when: str, upscaler: tuple[str, str], unfitted: Sequence[Unfitted | None]
) -> Images:
    """Each picture in its size, None where there is none or a network was interrupted."""
    name, path = upscaler
    in_thread = work.services.in_thread
    if not path:
        return await in_thread(lambda: tuple(_filtered(one, name) if one else None for one in unfitted))
    wanted = {place: one for place, one in enumerate(unfitted) if one is not None}
    part, tiles = f"{plan.jobs[0].id}.{when}", upscaler_tiles(plan.options)
    jobs = await in_thread(
        lambda: [
            Enlarge(f"{part}/{k}", to_picture(one.image), Size(*one.size), name, path, tiles=tiles)
            for k, one in enumerate(wanted.values())
        ]
    )
    ends = await work.results(work.entry.submit(work.services.engine, jobs))
    made = {place: end.picture for place, end in zip(wanted, ends, strict=True) if isinstance(end, Finished)}
    return await in_thread(
        lambda: tuple(to_image(made[place]) if place in made else None for place in range(len(unfitted)))
    )


def _filtered(one: Unfitted, name: str) -> Image.Image:
    """Enlarged by a filter to whole cells, as A1111's upscalers do, then by Lanczos to the size."""
    target = _target(one.image.size, one.size)
    larger = filtered(one.image, target.factor, target.size, name)
    return larger if larger.size == one.size else scaled(larger, *one.size)


def _target(size: tuple[int, int], wanted: tuple[int, int]) -> Target:
    factor = max(wanted[0] / size[0], wanted[1] / size[1])
    width, height = (int(side * factor // CELL * CELL) for side in size)
    return Target(factor, (width, height), None)


def _check(plan: Plan, pictures: PicturePlan, limits: Limits) -> None:
    """See that nothing which a network is to enlarge is too large for it."""
    if pictures.upscaler is None or not pictures.upscaler[1]:
        return
    upscaler_tiles(plan.options)
    sizes = [(one.image.size, one.size) for one in pictures.unfitted if one is not None]
    painted = (plan.size.width, plan.size.height)
    regions = {finish.region.size for finish in pictures.finishes if finish.region is not None}
    sizes += [(painted, fitted_size(painted, COVER, *region)) for region in regions]
    for size, wanted in sizes:
        if wanted[0] > size[0] or wanted[1] > size[1]:
            check_network(size, _target(size, wanted), ENLARGER, limits)
