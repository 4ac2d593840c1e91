"""X/Y/Z plot: grids of what changes with up to three settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Final

from PIL import Image

from sdserver.api.requests import Request, Txt2ImgRequest
from sdserver.api.scripts.checks import Values, refused
from sdserver.api.scripts.grids import Layout, blank, cell_of, check_sheet, layout, sheet
from sdserver.api.scripts.runs import changed, image_run, saving_run, with_fixed_seeds
from sdserver.api.scripts.script import (
    Argument,
    Context,
    Done,
    Folder,
    Outcome,
    Run,
    Script,
    ScriptPicture,
    Steps,
    Tab,
)
from sdserver.api.scripts.xyz_axes import HYPERTILE_AXES, Axis, axes_of
from sdserver.api.scripts.xyz_sides import MAX_TEXT, Side, read_side
from sdserver.api.translate.plan import Sources
from sdserver.api.translate.sizes import hires_sizes
from sdserver.images.infotext import InfoValue, quote

TITLE: Final = "X/Y/Z plot"
GRID_NAME: Final = "xyz_grid"
_LETTERS: Final = "XYZ"
_PER_AXIS: Final = 3
_MAX_MARGIN: Final = 500
_MARGIN: Final = 16


@dataclass(frozen=True, slots=True)
class _Plot:
    """A plot that is to be made.

    Attributes:
        request: what all cells share.
        sides: x, y and z.
        varies: whether seeds count up along each.
        draws_legend: labels and margins; without it cells stand side by side.
        tells_cells, tells_layers: whether the cells, and the grid of each z, are part of the answer.
    """

    context: Context
    request: Request
    sides: tuple[Side, Side, Side]
    varies: tuple[bool, bool, bool]
    draws_legend: bool
    tells_cells: bool
    tells_layers: bool
    margin: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """Values of x, y and z."""
        x, y, z = (len(side.values) for side in self.sides)
        return x, y, z

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """All cells by their places on x, y and z, x changing fastest."""
        x, y, z = map(range, self.counts)
        return [(i, j, k) for k, j, i in product(z, y, x)]

    def cell(self, place: tuple[int, int, int]) -> Request:
        """What is asked for a cell."""
        request = self.request
        for side, index in zip(self.sides, place, strict=True):
            request = side.axis.apply(self.context, request, side.values[index], side.values)
        stride, offset = 1, 0
        for is_varied, index, count in zip(self.varies, place, self.counts, strict=True):
            if is_varied:
                offset += index * stride
                stride *= count
        return changed(request, seed=request.seed + offset) if offset else request

    def run(self, request: Request) -> Run:
        """A cell's run. Of several images the first is shown; where others are not saved, none are made."""
        if self.context.request.save_images:
            return saving_run(self.context, request)
        return image_run(self.context, request)

    def layer_layout(self, cell: tuple[int, int]) -> Layout:
        """The layout of the grid of a z."""
        x, y, _ = self.sides
        if not self.draws_legend:
            return layout(cell, blank(len(x.values)), blank(len(y.values)))
        return layout(cell, x.labels, y.labels, self.margin)

    def whole_layout(self, layer: tuple[int, int]) -> Layout:
        """The layout of the grid of all."""
        z = self.sides[2]
        return layout(layer, z.labels if self.draws_legend else blank(len(z.values)), blank(1))

    def check(self, cell: tuple[int, int]) -> None:
        """See that grids of such cells are not too large.

        Raises:
            InvalidField: they are.
        """
        check_sheet(self.context, self.whole_layout(self.layer_layout(cell).size).size)


def _begin(tab: Tab, context: Context, given: Sequence[Any]) -> Steps:
    plot = _read(tab, context, given)
    x, y, z = plot.counts
    per_cell = plot.request.batch_size * plot.request.n_iter if context.request.save_images else 1
    context.expect(x * y * z * max(per_cell, 1))
    cells = [plot.cell(place) for place in plot.places]
    sizes = [_size(context, cell) for cell in cells]
    plot.check((max(width for width, _ in sizes), max(height for _, height in sizes)))
    return _steps(plot, cells)


def _read(tab: Tab, context: Context, given: Sequence[Any]) -> _Plot:
    # Clients send true and false for the margin too.
    margin = int(given[_MARGIN]) if isinstance(given[_MARGIN], bool) else given[_MARGIN]
    values = Values(arguments(tab), [*given[:_MARGIN], margin, *given[_MARGIN + 1 :]])
    draws_legend, tells_cells, tells_layers, keeps_random, *varies = (values.flag(k) for k in range(9, 16))
    as_text = values.flag(17)
    x, y, z = (
        read_side(
            context,
            letter,
            _axis(tab, given[place]),
            values.text(place + 1, MAX_TEXT),
            given[place + 2],
            as_text=as_text,
            fixes_seeds=not keeps_random,
        )
        for letter, place in zip(_LETTERS, range(0, 9, _PER_AXIS), strict=True)
    )
    request = context.request if keeps_random else with_fixed_seeds(context)
    if not context.options.flag("return_grid"):
        request = changed(request, batch_size=1)
    return _Plot(
        context=context,
        request=request,
        sides=(x, y, z),
        varies=(varies[0], varies[1], varies[2]),
        draws_legend=draws_legend,
        tells_cells=tells_cells,
        tells_layers=tells_layers,
        margin=values.whole(_MARGIN, 0, _MAX_MARGIN),
    )


def _axis(tab: Tab, given: object) -> Axis:
    """The kind of axis of a number, as clients of the API say it, or of a name."""
    axes = axes_of(tab)
    if given is None:
        return axes[0]
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(axes):
        return axes[given]
    named = [axis for axis in axes if isinstance(given, str) and axis.label.lower() == given.lower()]
    if not named:
        message = f"An axis is named by a number from 0 to {len(axes) - 1} or by its name"
        raise refused(f"{message}; GET /sdapi/v1/script-info lists them.")
    return named[0]


def _size(context: Context, request: Request) -> tuple[int, int]:
    """Of a request's images."""
    if isinstance(request, Txt2ImgRequest) and request.enable_hr:
        size = hires_sizes(request, context.options, context.sources.config.limits).result
        return size.width, size.height
    return request.width, request.height


def _steps(plot: _Plot, cells: Sequence[Request]) -> Steps:
    # Cells that share what is slow to change are run beside each other.
    slowest = sorted((2, 1, 0), key=lambda axis: -plot.sides[axis].axis.cost)
    places = plot.places
    order = sorted(range(len(cells)), key=lambda index: tuple(places[index][axis] for axis in slowest))
    ran: list[Done] = yield [plot.run(cells[index]) for index in order]
    by_index = dict(zip(order, ran, strict=True))
    return _outcome(plot, [by_index[index] for index in range(len(cells))])


def _outcome(plot: _Plot, cells: Sequence[Done]) -> Outcome:
    images = [done.pictures[0] if done.pictures else None for done in cells]
    largest = cell_of(images)
    if largest is None:
        return Outcome((), cells[0].info)
    plot.check(largest)
    layers = [_layer(plot, images, index, largest) for index in range(plot.counts[2])]
    laid = plot.whole_layout((max(one.width for one in layers), max(one.height for one in layers)))
    is_whole = len(layers) == 1 and laid.size == layers[0].size
    whole = layers[0] if is_whole else sheet(layers, laid, plot.context.options)
    texts = _grid_texts(plot, cells)
    pictures = _pictures(plot, cells, images, largest, [whole, *layers], texts)
    return Outcome(tuple(pictures), _info(plot, cells, texts))


def _layer(
    plot: _Plot, images: Sequence[Image.Image | None], index: int, largest: tuple[int, int]
) -> Image.Image:
    x, y, _ = plot.counts
    own = images[index * x * y : (index + 1) * x * y]
    return sheet(own, plot.layer_layout(cell_of(own) or largest), plot.context.options)


def _grid_texts(plot: _Plot, cells: Sequence[Done]) -> list[str]:
    """The infotexts of the grid of all, and of the grid of each z."""
    x, y, z = plot.sides
    per_layer = len(x.values) * len(y.values)
    told: dict[str, InfoValue] = {"Script": TITLE, **x.told, **y.told}
    firsts = [str(done.info["infotexts"][0]) for done in cells[::per_layer]]
    whole = _extended(plot.context, firsts[0], {**told, **z.told})
    return [whole, *(_extended(plot.context, text, told) for text in firsts)]


def _extended(context: Context, text: str, added: dict[str, InfoValue]) -> str:
    """An infotext with more values, before the version that it ends with."""
    version = f", Version: {quote(context.sources.config.version)}"
    end = version if text.endswith(version) else ""
    values = "".join(f", {key}: {quote(value)}" for key, value in added.items())
    return text.removesuffix(end) + values + end


def _pictures(
    plot: _Plot,
    cells: Sequence[Done],
    images: Sequence[Image.Image | None],
    largest: tuple[int, int],
    grids: Sequence[Image.Image],
    texts: Sequence[str],
) -> list[ScriptPicture]:
    context = plot.context
    keeps = context.request.save_images and context.options.flag("grid_save")
    several = len(grids) > 2  # the grid of the only z is the grid of all
    found = []
    for index, (grid, text) in enumerate(zip(grids, texts, strict=True)):
        keep: Folder | None = "grids" if keeps and (index == 0 or several) else None
        if index == 0 or plot.tells_layers:
            found.append(ScriptPicture(grid, None, keep, GRID_NAME, kept_text=text))
    if plot.tells_cells:
        for image, done in zip(images, cells, strict=True):
            shown = Image.new("RGB", largest) if image is None else image
            found.append(ScriptPicture(shown, done.texts[0] if done.texts else None))
    return found


def _info(plot: _Plot, cells: Sequence[Done], texts: Sequence[str]) -> dict[str, Any]:
    """AUTOMATIC1111's `info`: that of the first cell, with the seeds, prompts and infotexts of all."""
    first, request = cells[0].info, plot.request
    per_layer = plot.counts[0] * plot.counts[1]
    images = request.batch_size * request.n_iter
    lists: dict[str, list[Any]] = {}
    for name, key in (("all_prompts", "prompt"), ("all_seeds", "seed")):
        found = [done.info[key] if done.pictures else None for done in cells]
        lists[name] = [*(found[::per_layer] if plot.tells_layers else []), *found]
    cell_texts = [done.info["infotexts"][0] if done.pictures else None for done in cells]
    return {
        **first,
        **lists,
        "all_negative_prompts": [first["negative_prompt"]] * images,
        "all_subseeds": [first["subseed"] + k for k in range(images)],
        "batch_size": request.batch_size,
        "index_of_first_image": 1,
        "infotexts": [*(texts if plot.tells_layers else texts[:1]), *cell_texts],
    }


def arguments(tab: Tab) -> tuple[Argument, ...]:
    """The plot's arguments in a tab, whose axes are not the other's."""

    def axes(sources: Sources) -> Sequence[str]:
        has_page = sources.config.flags.get("nowebui") is False
        return [axis.label for axis in axes_of(tab) if has_page or axis not in HYPERTILE_AXES]

    per_axis = [
        (
            Argument(f"{letter} type", "Seed" if letter == "X" else "Nothing", choices=axes),
            Argument(f"{letter} values", ""),
            Argument(f"{letter} values", choices=()),
        )
        for letter in _LETTERS
    ]
    switches = (
        Argument("Draw legend", value=True),
        Argument("Include Sub Images", value=False),
        Argument("Include Sub Grids", value=False),
        Argument("Keep -1 for seeds", value=False),
        *(Argument(f"Vary seeds for {letter}", value=False) for letter in _LETTERS),
    )
    margin = Argument("Grid margins (px)", 0, 0, _MAX_MARGIN, 2)
    as_text = Argument("Use text inputs instead of dropdowns", value=False)
    return (*(argument for three in per_axis for argument in three), *switches, margin, as_text)


def _script(tab: Tab) -> Script:
    return Script(TITLE, (tab,), arguments(tab), partial(_begin, tab))


TXT2IMG: Final = _script("txt2img")
IMG2IMG: Final = _script("img2img")
