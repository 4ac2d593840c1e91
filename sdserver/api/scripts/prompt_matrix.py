"""Prompt matrix: every combination of the parts of a prompt that are separated by `|`."""

from collections.abc import Sequence
from typing import Any, Final

from PIL import Image

from sdserver.api.requests import Request
from sdserver.api.scripts.checks import Values, refused
from sdserver.api.scripts.grids import Label, Labels, Layout, cell_of, check_sheet, layout, sheet
from sdserver.api.scripts.joined import images_of
from sdserver.api.scripts.runs import changed, image_run, with_fixed_seeds
from sdserver.api.scripts.script import (
    Argument,
    Context,
    Done,
    Folder,
    Outcome,
    Script,
    ScriptPicture,
    Steps,
)

GRID_NAME: Final = "prompt_matrix"
MAX_PARTS: Final = 9
"""Beside the first; 512 images."""
_MAX_MARGIN: Final = 500
_MARGIN: Final = 4

ARGUMENTS: Final = (
    Argument("Put variable parts at start of prompt", value=False),
    Argument("Use different seed for each picture", value=False),
    Argument("Select prompt", "positive", choices=("positive", "negative")),
    Argument("Select joining char", "comma", choices=("comma", "space")),
    Argument("Grid margins (px)", 0, 0, _MAX_MARGIN, 2),
)


def _begin(context: Context, given: Sequence[Any]) -> Steps:
    margin = int(given[_MARGIN]) if isinstance(given[_MARGIN], bool) else given[_MARGIN]
    values = Values(ARGUMENTS, [*given[:_MARGIN], margin])
    at_start, differs = values.flag(0), values.flag(1)
    field = "prompt" if values.choice(2, ("positive", "negative")) == "positive" else "negative_prompt"
    joint = ", " if values.choice(3, ("comma", "space")) == "comma" else " "
    request = with_fixed_seeds(context)
    parts = getattr(request, field).split("|", MAX_PARTS + 1)
    if len(parts) > MAX_PARTS + 1:
        raise refused(f"The prompt has too many parts separated by '|': at most {MAX_PARTS + 1} are allowed.")
    prompts = _combinations(parts, joint, at_start=at_start)
    context.expect(len(prompts))
    cells = [
        changed(
            request,
            seed=request.seed + (index if differs else 0),
            subseed=request.subseed + index,
            **{field: prompt},
        )
        for index, prompt in enumerate(prompts)
    ]
    margin = values.whole(_MARGIN, 0, _MAX_MARGIN)
    check_sheet(context, _laid((request.width, request.height), parts, margin).size)
    return _steps(context, cells, parts, margin)


def _combinations(parts: Sequence[str], joint: str, *, at_start: bool) -> list[str]:
    """The first part with each choice of the others, in the order of binary numbers."""
    base, others = parts[0], [part.strip().strip(",") for part in parts[1:]]
    found = []
    for number in range(1 << len(others)):
        chosen = [part for place, part in enumerate(others) if number >> place & 1]
        found.append(joint.join([*chosen, base] if at_start else [base, *chosen]))
    return found


def _laid(cell: tuple[int, int], parts: Sequence[str], margin: int) -> Layout:
    """The first half of the variable parts stands above the columns, the rest beside the rows."""
    others = parts[1:]
    half = (len(others) + 1) // 2
    return layout(cell, _labels(others[:half]), _labels(others[half:]), margin)


def _labels(parts: Sequence[str]) -> Labels:
    """For each choice of the parts all of them, those that are left out struck out."""
    return [
        [Label(part, is_active=bool(number >> place & 1)) for place, part in enumerate(parts)]
        for number in range(1 << len(parts))
    ]


def _steps(context: Context, cells: Sequence[Request], parts: Sequence[str], margin: int) -> Steps:
    done: list[Done] = yield [image_run(context, cell, index) for index, cell in enumerate(cells)]
    images = [next(iter(images_of(one)), None) for one in done]
    info = _info(context, done)
    cell = cell_of(images)
    if cell is None:
        return Outcome((), info)
    laid = _laid(cell, parts, margin)
    check_sheet(context, laid.size)
    grid = sheet(images, laid, context.options)
    info |= {"index_of_first_image": 1, "infotexts": [info["infotexts"][0], *info["infotexts"]]}
    return Outcome((_grid(context, grid), *_pictures(done)), info)


def _grid(context: Context, grid: Image.Image) -> ScriptPicture:
    keeps = context.request.save_images and context.options.flag("grid_save")
    keep: Folder | None = "grids" if keeps else None
    return ScriptPicture(grid, None, keep, GRID_NAME)


def _pictures(done: Sequence[Done]) -> list[ScriptPicture]:
    return [
        ScriptPicture(image, text)
        for one in done
        for image, text in zip(one.pictures, one.texts, strict=True)
    ]


def _info(context: Context, done: Sequence[Done]) -> dict[str, Any]:
    """One `info` for all: AUTOMATIC1111 makes them in one run."""
    keys = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")
    lists = {key: [value for one in done for value in one.info[key]] for key in keys}
    made = [one for one in done if one.pictures] or done[:1]
    infotexts = [text for one in made for text in one.info["infotexts"]]
    return {**done[0].info, **lists, "batch_size": context.request.batch_size, "infotexts": infotexts}


SCRIPT: Final = Script("Prompt matrix", ("txt2img", "img2img"), ARGUMENTS, _begin)
