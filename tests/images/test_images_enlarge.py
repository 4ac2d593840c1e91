import numpy as np
import pytest
from PIL import Image

from sdserver.images.enlarge import blended, cropped, filtered, plain

LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values, mode)


def distance(one: Image.Image, other: Image.Image) -> int:
    assert (one.mode, one.size) == (other.mode, other.size)
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """By Lanczos, first in width; Pillow's own order depends on its version."""
    return image.resize((width, image.height), LANCZOS).resize((width, height), LANCZOS)


def test_nearest_repeats_pixels_and_lanczos_fits_the_rest() -> None:
    picture = noise(10, 8)
    enlarged = filtered(picture, 2.5, (24, 16), "Nearest")
    assert distance(enlarged, fitted(picture.resize((25, 20), NEAREST), 24, 16)) == 0
    assert distance(filtered(picture, 3, (30, 24), "Nearest"), picture.resize((30, 24), NEAREST)) == 0


@pytest.mark.parametrize("upscaler", ["Lanczos", "Nearest"])
def test_smaller_is_lanczos_whatever_the_upscaler(upscaler: str) -> None:
    picture = noise(32, 32)
    assert distance(filtered(picture, 0.5, (16, 16), upscaler), fitted(picture, 16, 16)) == 0


def test_colours_behind_transparency_do_not_show() -> None:
    """Red that is opaque beside green that is not: there is no green at the edge."""
    picture = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 0), (8, 0, 16, 16))
    values = np.asarray(filtered(picture, 2, (32, 32), "Lanczos"))
    visible = values[values[..., 3] > 8]
    assert visible[:, 1].max() == 0


def test_a_size_that_fits_is_left_alone() -> None:
    picture = noise(16, 16, "RGBA")
    assert filtered(picture, 1, (16, 16), "Lanczos") is picture


def test_blending_keeps_the_first_ones_mode() -> None:
    first, second = noise(8, 8, "RGBA"), noise(8, 8)
    assert distance(blended(first, second, 0), first) == 0
    assert distance(blended(first, second, 1), second.convert("RGBA")) == 0
    assert blended(second, first, 0.5).mode == "RGB"


def test_cropping_takes_the_middle_and_fills_up_with_black() -> None:
    picture = noise(20, 10)
    assert distance(cropped(picture, (10, 10)), picture.crop((5, 0, 15, 10))) == 0
    wide = cropped(picture, (24, 10))
    assert np.asarray(wide)[:, :2].max() == 0
    assert distance(wide.crop((2, 0, 22, 10)), picture) == 0


@pytest.mark.parametrize(
    ("mode", "result"), [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "RGB"), ("CMYK", "RGB")]
)
def test_modes(mode: str, result: str) -> None:
    assert plain(Image.new(mode, (4, 4))).mode == result
