"""What stands in the masked area before sampling: the colours around it, smeared into it."""

from PIL import Image, ImageFilter

from sdserver.images.overlay import cut_out

_LAYERS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Replace the masked area by blurs of the rest, the wide ones below the narrow ones.

    Args:
        image: RGB.
        mask: L, of the same size.
    """
    kept = cut_out(image, mask)
    filled = Image.new("RGBA", image.size)
    for radius, repeats in _LAYERS:
        blurred = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            filled.alpha_composite(blurred)
    return filled.convert("RGB")
