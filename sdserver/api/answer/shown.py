"""Which pictures an answer has: the grid, the images, their masks."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from sdserver.api.translate.plan import Plan
from sdserver.images.grid import grid_rows, make_grid
from sdserver.images.pictures import to_picture
from sdserver.jobs.events import Cancelled, Finished, Picture


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of the answer.

    Attributes:
        index: its job's place, 0 for the grid.
        told: whether it is part of the answer.
        kept: whether it is saved.
    """

    picture: Picture
    index: int
    is_grid: bool
    told: bool
    kept: bool


@dataclass(frozen=True, slots=True)
class Plain:
    """A picture that comes behind an image and is only sent: its mask, or what is under the mask."""

    image: Image.Image


def shown(plan: Plan, ends: Sequence[Finished | Cancelled]) -> list[Shown | Plain]:
    """The answer's pictures in order, the grid first if there is one; cancelled images are left out."""
    options, saves = plan.options, plan.request.save_images
    may_save = saves and options.flag("samples_save")
    keeps_incomplete = options.flag("save_incomplete_images")
    items: list[Shown | Plain] = []
    for index, end in enumerate(ends):
        if isinstance(end, Finished):
            kept = may_save and (keeps_incomplete or not end.interrupted)
            picture = end.picture
            if plan.pictures is not None:
                picture = plan.pictures.finishes[index].apply(picture)
            items.append(Shown(picture, index, is_grid=False, told=True, kept=kept))
            items += _masks(plan, index, end.picture)
    wants_grid = options.flag("return_grid") or options.flag("grid_save")
    too_few = len(items) < 2 and options.flag("grid_only_if_multiple")
    if not items or not saves or not wants_grid or too_few:
        return items
    return [_grid(plan, items), *items]


def _masks(plan: Plan, index: int, painted: Picture) -> list[Plain]:
    if plan.pictures is None:
        return []
    finish = plan.pictures.finishes[index]
    found: list[Plain] = []
    if plan.options.flag("return_mask") and finish.mask is not None:
        found.append(Plain(finish.mask.convert("RGB")))
    if plan.options.flag("return_mask_composite"):
        composite = finish.mask_composite(painted)
        if composite is not None:
            found.append(Plain(composite))
    return found


def _grid(plan: Plan, items: list[Shown | Plain]) -> Shown:
    options = plan.options
    rows = grid_rows(
        len(items),
        plan.batch_size,
        options.number("n_rows"),
        prevent_empty_spots=options.flag("grid_prevent_empty_spots"),
    )
    pictures = [item.picture if isinstance(item, Shown) else to_picture(item.image) for item in items]
    sheet = make_grid(pictures, rows, options.text("grid_background_color"))
    return Shown(sheet, 0, is_grid=True, told=options.flag("return_grid"), kept=options.flag("grid_save"))
