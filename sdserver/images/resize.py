"""AUTOMATIC1111's ways to bring a picture to a size.

Mode 0 stretches, 1 covers the size and cuts what stands over, every other fits the picture in and
smears its edges over the rest. (Mode 3 resizes the latent instead; where a picture has to have the
size all the same, it is fitted in.) The mode of the picture is kept.
"""

from dataclasses import dataclass

from PIL import Image

from sdserver.errors import RequestError

STRETCH, COVER, FIT, LATENT = range(4)
MAX_PIXELS = 2**27
"""Of the pictures between the first and the last: a narrow one may become huge in one direction."""


@dataclass(frozen=True, slots=True, eq=False)
class Unfitted:
    """A picture that is to become larger by something else than Lanczos.

    Attributes:
        image: RGB.
        size: that it is to have, larger in one direction at least.
    """

    image: Image.Image
    size: tuple[int, int]


def check_resize(size: tuple[int, int], mode: int, width: int, height: int) -> None:
    """See that a picture of some size can be resized.

    Raises:
        RequestError: its proportions are too far from those of the result.
    """
    across, down = fitted_size(size, mode, width, height)
    if across * max(size[1], down) > MAX_PIXELS:
        message = (
            f"A picture of {size[0]:,} x {size[1]:,} pixels cannot be brought to {width:,} x {height:,}: "
            "send one of other proportions."
        )
        raise RequestError(message)


def resize(
    image: Image.Image, mode: int, width: int, height: int, fitted: Image.Image | None = None
) -> Image.Image:
    """The picture at the size, by Lanczos.

    Args:
        image: of any size.
        mode: see the module.
        width: of the result.
        height: of the result.
        fitted: the picture at its `fitted_size` already; it counts if it has that.

    Raises:
        RequestError: see `check_resize`.
    """
    check_resize(image.size, mode, width, height)
    inner = fitted_size(image.size, mode, width, height)
    if fitted is None or fitted.size != inner:
        fitted = scaled(image, *inner)
    if mode == STRETCH:
        return fitted
    # Both halves are rounded on their own: an odd rest leaves a line of black, as in AUTOMATIC1111.
    left, top = width // 2 - inner[0] // 2, height // 2 - inner[1] // 2
    result = Image.new(image.mode, (width, height))
    result.paste(fitted, (left, top))
    if mode != COVER:
        _smear(result, fitted, left, top)
    return result


def fitted_size(size: tuple[int, int], mode: int, width: int, height: int) -> tuple[int, int]:
    """What a picture of some size is scaled to, before it is cut or laid upon its smeared edges."""
    return (width, height) if mode == STRETCH else _inner_size(size, mode, width, height)


def unfitted(image: Image.Image, mode: int, width: int, height: int) -> Unfitted | None:
    """The picture if `resize` makes it larger, and what it makes it before it cuts or smears."""
    size = fitted_size(image.size, mode, width, height)
    is_larger = size[0] > image.width or size[1] > image.height
    return Unfitted(image, size) if is_larger else None


def scaled(
    image: Image.Image, width: int, height: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """The picture stretched to the size, first in width, then in height.

    Values are rounded and cut off between the two. Pillow's own order depends on its version and the
    sizes, and a different order differs by several levels at edges.
    """
    return image.resize((width, image.height), resampling).resize((width, height), resampling)


def _inner_size(size: tuple[int, int], mode: int, width: int, height: int) -> tuple[int, int]:
    """The size that covers `width` and `height` or fits in, at the proportions of `size`."""
    is_wider = width / height > size[0] / size[1]
    if is_wider == (mode == COVER):
        return width, max(1, size[1] * width // size[0])
    return max(1, size[0] * height // size[1]), height


def _smear(result: Image.Image, fitted: Image.Image, left: int, top: int) -> None:
    """Stretch the outermost rows or columns of `fitted` over the bars beside it."""
    width, height = result.size
    if fitted.width == width and fitted.height < height and top > 0:
        above = fitted.resize((width, top), box=(0, 0, width, 0))
        below = fitted.resize((width, top), box=(0, fitted.height, width, fitted.height))
        result.paste(above, (0, 0))
        result.paste(below, (0, top + fitted.height))
    elif fitted.width < width and left > 0:
        before = fitted.resize((left, height), box=(0, 0, 0, height))
        after = fitted.resize((left, height), box=(fitted.width, 0, fitted.width, height))
        result.paste(before, (0, 0))
        result.paste(after, (left + fitted.width, 0))
