"""AUTOMATIC1111's "Poor man's outpainting": the picture is laid on a larger one whose tiles are inpainted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from sdserver.api.requests import Img2ImgRequest
from sdserver.api.scripts.checks import Values, check_size, refused
from sdserver.api.scripts.joined import images_of, picture_request, whole, with_fixed_seeds
from sdserver.api.scripts.script import Argument, Context, Done, Run, Script, Steps
from sdserver.api.translate.plan import Given
from sdserver.images.outpaint import SIDES, Borders, borders, frame, rounded_up
from sdserver.images.tiles import Tile, Tiles, combine, replaced, split, tile_count

CONTENTS: Final = ("fill", "original", "latent noise", "latent nothing")
"""By the number in `inpainting_fill`."""
ARGUMENTS: Final = (
    Argument("Pixels to expand", 128, 8, 256, 8),
    Argument("Mask blur", 4, 0, 64, 1),
    Argument("Masked content", "fill", choices=CONTENTS),
    Argument("Outpainting direction", list(SIDES), choices=SIDES),
)
MOST_BLUR: Final = 256
UNTOLD_FILL: Final = -1
"""`inpainting_fill`: as 0, but infotexts do not tell of it."""


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is painted on.

    Attributes:
        size: of the whole.
        added: the borders around the old picture.
        overlap: of neighbouring tiles.
        blur: of the masks.
    """

    size: tuple[int, int]
    added: Borders
    overlap: int
    blur: int

    def mask(self, inside: int) -> Image.Image:
        """White where something new is to be, and that far into the old picture."""
        (width, height), added = self.size, self.added
        return frame(
            self.size,
            (
                added.left + inside * (added.left > 0),
                added.up + inside * (added.up > 0),
                width - added.right - inside * (added.right > 0),
                height - added.down - inside * (added.down > 0),
            ),
        )

    def is_old(self, tile: Tile) -> bool:
        """Whether a tile lies within the old picture."""
        (width, height), added = self.size, self.added
        return (
            tile.left >= added.left
            and tile.left + tile.image.width <= width - added.right
            and tile.top >= added.up
            and tile.top + tile.image.height <= height - added.down
        )


def begin(context: Context, arguments: Sequence[Any]) -> Steps:
    """Check the arguments and plan the tiles; see `Script.begin`."""
    values = Values(ARGUMENTS, arguments)
    request, limits = picture_request(context), context.sources.config.limits
    pixels = values.whole(0, 1, max(limits.max_width, limits.max_height))
    blur = values.whole(1, 0, MOST_BLUR)
    content = _content(values, arguments[2])
    sides = values.choices(3, SIDES)
    tile = (request.width, request.height)
    if pixels >= min(tile):
        message = "'Pixels to expand' must be less than 'width' and 'height', which are the size of a tile."
        raise refused(message)
    old = context.pictures[0]
    added = borders(old.size, pixels, sides)
    ground = _Ground(_size(old.size, added), added, pixels, blur)
    check_size(context, *ground.size)
    tiles = tile_count(ground.size, tile, pixels)
    context.expect(tiles)
    fields = {
        "n_iter": 1,
        "batch_size": 1,
        "mask_blur": 2 * blur,
        "inpainting_fill": content,
        "inpaint_full_res": False,
    }
    fixed = with_fixed_seeds(context, request.model_copy(update=fields), tiles)
    return _steps(context, fixed, ground)


def _content(values: Values, asked: object) -> int:
    """What stands in the masked area at the start, by its number or name.

    AUTOMATIC1111 fills for every name and does not tell so; here the other names are what they say.
    """
    if isinstance(asked, int | float):
        return values.whole(2, 0, len(CONTENTS) - 1)
    return CONTENTS.index(values.choice(2, CONTENTS)) or UNTOLD_FILL


def _size(size: tuple[int, int], added: Borders) -> tuple[int, int]:
    """Of the whole: a multiple of 64 also where nothing is added, as in AUTOMATIC1111."""
    width, height = added.around(size)
    return rounded_up(width), rounded_up(height)


def _steps(context: Context, request: Img2ImgRequest, ground: _Ground) -> Steps:
    whole_image = Image.new("RGB", ground.size)
    whole_image.paste(context.pictures[0], (ground.added.left, ground.added.up))
    tile = (request.width, request.height)
    tiles = split(whole_image, *tile, ground.overlap)
    masks = split(ground.mask(2 * ground.blur), *tile, ground.overlap)
    latent_masks = split(ground.mask(ground.blur // 2), *tile, ground.overlap)
    work = [
        Given(pictures=(each.image,), mask=mask.image, latent_mask=latent_mask.image)
        for each, mask, latent_mask in zip(_each(tiles), _each(masks), _each(latent_masks), strict=True)
        if not ground.is_old(each)
    ]
    context.expect(len(work))
    runs = [
        Run(request.model_copy(update={"seed": request.seed + place}), given)
        for place, given in enumerate(work)
    ]
    done: list[Done] = yield runs
    painted = [next(iter(images_of(one)), given.pictures[0]) for one, given in zip(done, work, strict=True)]
    left = iter(painted)
    images = [each.image if ground.is_old(each) else next(left) for each in _each(tiles)]
    return whole(context, [combine(replaced(tiles, images))], done[0], done[-1])


def _each(tiles: Tiles) -> list[Tile]:
    return [tile for row in tiles.rows for tile in row]


SCRIPT: Final = Script("Poor man's outpainting", ("img2img",), ARGUMENTS, begin)
