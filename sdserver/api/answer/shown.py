"""Which pictures a run has, for its answer and to be saved: the grid, the images, what goes with them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from sdserver.api.translate.faces import KEEPS_PICTURE as BEFORE_FACES
from sdserver.api.translate.plan import Plan
from sdserver.images.finish import Finish
from sdserver.images.grid import grid_rows, make_grid
from sdserver.images.pictures import to_image, to_picture
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
    """A picture that goes with an image: its mask, what is under the mask, its faces or colours as they were.

    Attributes:
        index: the image's job's place.
        suffix: of the file's name.
        told: whether it is part of the answer, without an infotext.
        kept: whether it is saved, with the image's infotext.
    """

    image: Image.Image
    index: int
    suffix: str
    told: bool
    kept: bool


@dataclass(frozen=True, slots=True)
class Keeping:
    """What of a run is saved, as far as the options allow.

    Attributes:
        samples: the images.
        grid: the grid, which is made only then.
    """

    samples: bool
    grid: bool


def shown(plan: Plan, ends: Sequence[Finished | Cancelled], keeping: Keeping) -> list[Shown | Plain]:
    """The run's pictures in order, the grid first if there is one; cancelled images are left out."""
    options = plan.options
    may_save = keeping.samples and options.flag("samples_save")
    keeps_incomplete = options.flag("save_incomplete_images")
    items: list[Shown | Plain] = []
    for index, end in enumerate(ends):
        if index % plan.batch_size == 0:
            items += _first_pictures(ends, range(index, index + plan.batch_size), may_save=may_save)
        if isinstance(end, Finished):
            kept = may_save and (keeps_incomplete or not end.interrupted)
            finish = _finish(plan, index, end)
            picture = end.picture if finish is None else finish.apply(end.picture)
            items += _before_faces(plan, index, end, may_save=kept)
            items.append(Shown(picture, index, is_grid=False, told=True, kept=kept))
            items += _company(plan, finish, index, end.picture, may_save=kept)
    told = [item for item in items if item.told]
    wants_grid = options.flag("return_grid") or options.flag("grid_save")
    too_few = len(told) < 2 and options.flag("grid_only_if_multiple")
    if not told or not keeping.grid or not wants_grid or too_few:
        return items
    return [_grid(plan, told), *items]


def _first_pictures(
    ends: Sequence[Finished | Cancelled], batch: Iterable[int], *, may_save: bool
) -> Iterator[Plain]:
    """The first pass's pictures of a batch, where they are kept: they were made before its images."""
    for index, end in enumerate(ends):
        if may_save and index in batch and isinstance(end, Finished) and end.first is not None:
            yield Plain(to_image(end.first), index, "-before-highres-fix", told=False, kept=True)


def _finish(plan: Plan, index: int, end: Finished) -> Finish | None:
    """What is done to an image's picture."""
    if plan.pictures is None:
        return None
    return plan.pictures.finishes[index].softened(end.picture, end.new_parts)


def _before_faces(plan: Plan, index: int, end: Finished, *, may_save: bool) -> list[Plain]:
    """The image as it was painted, before its faces were restored; the same where it has none."""
    if plan.faces.told is None or not may_save or not plan.options.flag(BEFORE_FACES):
        return []
    image = to_image(end.before_faces or end.picture)
    return [Plain(image, index, "-before-face-restoration", told=False, kept=True)]


def _company(
    plan: Plan, finish: Finish | None, index: int, painted: Picture, *, may_save: bool
) -> list[Plain]:
    """What goes with an image."""
    if finish is None:
        return []
    options = plan.options
    found: list[Plain] = []
    kept = may_save and options.flag("save_images_before_color_correction")
    if kept and finish.colours is not None:
        uncorrected = to_image(finish.apply_without_correction(painted))
        found.append(Plain(uncorrected, index, "-before-color-correction", told=False, kept=True))
    told, kept = options.flag("return_mask"), may_save and options.flag("save_mask")
    if (told or kept) and finish.mask is not None:
        found.append(Plain(finish.mask.convert("RGB"), index, "-mask", told, kept))
    told, kept = options.flag("return_mask_composite"), may_save and options.flag("save_mask_composite")
    composite = finish.mask_composite(painted) if told or kept else None
    if composite is not None:
        found.append(Plain(composite, index, "-mask-composite", told, kept))
    return found


def _grid(plan: Plan, items: Sequence[Shown | Plain]) -> Shown:
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
