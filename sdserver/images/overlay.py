"""The untouched part of a picture, and putting it over what was painted."""

from PIL import Image

from sdserver.images.masks import Box, invert
from sdserver.images.resize import COVER, FIT, resize


def flatten(image: Image.Image, background: str) -> Image.Image:
    """RGB; what is transparent in an RGBA picture shows the background's colour."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, background)
    ground.paste(image, mask=image)
    return ground.convert("RGB")


def cut_out(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with its masked area transparent, RGBa (colours multiplied by their alpha)."""
    result = Image.new("RGBa", image.size)
    result.paste(image.convert("RGBA").convert("RGBa"), mask=invert(mask))
    return result


def paste_back(
    painted: Image.Image, region: Box, size: tuple[int, int], fitted: Image.Image | None = None
) -> Image.Image:
    """A painted part at its place in an empty RGBA picture of the whole's size.

    Args:
        painted: the part.
        region: its place.
        size: of the whole.
        fitted: see `images.resize.resize`.
    """
    whole = Image.new("RGBA", size)
    whole.paste(resize(painted, COVER, *region.size, fitted), (region.left, region.top))
    return whole


def lay_over(painted: Image.Image, overlay: Image.Image) -> Image.Image:
    """The overlay upon what was painted, RGB, of the latter's size."""
    result = painted.convert("RGBA")
    result.alpha_composite(overlay)
    return result.convert("RGB")


def composite(painted: Image.Image, mask: Image.Image) -> Image.Image:
    """What was painted with all that is not masked transparent, RGBA."""
    stencil = resize(mask, FIT, *painted.size)
    visible = painted.convert("RGBA").convert("RGBa")
    return Image.composite(visible, Image.new("RGBa", painted.size), stencil).convert("RGBA")
