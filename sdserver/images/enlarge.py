"""Pictures of clients enlarged by filters, blended and cropped, as AUTOMATIC1111's extras do."""

from collections.abc import Mapping
from typing import Final

from PIL import Image

from sdserver.images.resize import scaled

LANCZOS: Final = "Lanczos"
FILTERS: Final[Mapping[str, Image.Resampling]] = {
    LANCZOS: Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}
"""By the upscaler's name."""

KEPT_MODES: Final = frozenset({"RGB", "RGBA"})


def plain(image: Image.Image) -> Image.Image:
    """The picture in the mode that it is worked on: RGB, or RGBA if it has that."""
    return image if image.mode in KEPT_MODES else image.convert("RGB")


def filtered(image: Image.Image, factor: float, size: tuple[int, int], upscaler: str) -> Image.Image:
    """The picture larger by a factor, then at its size; what is left to be done Lanczos does.

    Args:
        image: RGB or RGBA; that is kept.
        factor: how much larger. A smaller picture is made by Lanczos, whatever the upscaler.
        size: of the result: the picture's times the factor, less what stands over.
        upscaler: one of `FILTERS`.
    """
    if image.width < size[0] or image.height < size[1]:
        between = (int(image.width * factor), int(image.height * factor))
        image = _scaled(image, between, FILTERS[upscaler])
    return image if image.size == size else _scaled(image, size, FILTERS[LANCZOS])


def blended(first: Image.Image, second: Image.Image, share: float) -> Image.Image:
    """Both pictures, of one size, in the first one's mode.

    Args:
        first: shows where the second does not.
        second: the other one.
        share: of the second, 0 to 1.
    """
    return Image.blend(first, second.convert(first.mode), share)


def cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the picture, RGB. A size that is larger has black borders."""
    result = Image.new("RGB", size)
    result.paste(image, (size[0] // 2 - image.width // 2, size[1] // 2 - image.height // 2))
    return result


def _scaled(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Colours count as much as they are opaque, as in Pillow's own resizing."""
    if image.mode == "RGBA" and resampling != Image.Resampling.NEAREST:
        return scaled(image.convert("RGBa"), *size, resampling).convert("RGBA")
    return scaled(image, *size, resampling)
