"""Resizing in AUTOMATIC1111's modes."""

import numpy as np
import pytest
from PIL import Image

from sdserver.errors import RequestError
from sdserver.images.resize import COVER, FIT, LATENT, STRETCH, resize

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(width: int, height: int, *, upright: bool) -> Image.Image:
    """Red on the left or at the top, blue on the other side."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height) if upright else (0, height // 2, width, height))
    return image


@pytest.mark.parametrize("mode", [STRETCH, COVER, FIT, LATENT, 5])
@pytest.mark.parametrize("size", [(64, 64), (40, 72), (33, 17), (8, 200)])
def test_every_mode_gives_the_size_and_keeps_the_kind_of_picture(mode: int, size: tuple[int, int]) -> None:
    assert resize(Image.new("RGB", (50, 30)), mode, *size).size == size
    assert resize(Image.new("L", (50, 30)), mode, *size).mode == "L"


def test_width_comes_before_height() -> None:
    """Pillow 9.5's values, which the order decides: the overshoot is cut off between the two."""
    rows, columns = np.indices((12, 5))
    picture = ((rows * 37 + columns * 91) % 256 * ((rows + columns) % 3 != 0)).astype(np.uint8)
    resized = np.asarray(resize(Image.fromarray(picture), STRETCH, 8, 9))
    assert resized[:3].tolist() == [
        [0, 42, 124, 159, 95, 8, 75, 151],
        [60, 64, 47, 3, 13, 76, 79, 64],
        [20, 84, 160, 84, 5, 23, 102, 165],
    ]


def test_cover_cuts_both_sides_off() -> None:
    covered = resize(halves(64, 16, upright=True), COVER, 16, 16)
    assert covered.getpixel((0, 8)) == RED
    assert covered.getpixel((15, 8)) == BLUE


@pytest.mark.parametrize("upright", [True, False])
def test_fit_smears_the_edges_over_the_rest(upright: bool) -> None:
    fitted = np.asarray(resize(halves(16, 16, upright=upright), FIT, *((64, 16) if upright else (16, 64))))
    line = fitted[8] if upright else fitted[:, 8]
    assert (line[:28] == RED).all()
    assert (line[36:] == BLUE).all()


def test_fit_leaves_a_black_line_where_the_rest_is_odd() -> None:
    fitted = np.asarray(resize(Image.new("L", (16, 16), 255), FIT, 19, 16))
    assert fitted[8].tolist() == [255] * 18 + [0]


def test_extreme_proportions_still_give_a_picture() -> None:
    assert resize(Image.new("L", (2000, 1), 255), FIT, 64, 64).getextrema() == (255, 255)


@pytest.mark.parametrize(("size", "mode"), [((1, 10**6), STRETCH), ((1, 10**4), COVER), ((10**4, 1), COVER)])
def test_proportions_that_would_fill_the_memory_are_refused(size: tuple[int, int], mode: int) -> None:
    with pytest.raises(RequestError, match="other proportions"):
        resize(Image.new("1", size).convert("L"), mode, 1024, 1024)


@pytest.mark.parametrize("size", [(1, 10**5), (10**5, 1), (8000, 8000)])
def test_narrow_and_large_pictures_fit(size: tuple[int, int]) -> None:
    assert resize(Image.new("L", size), FIT, 64, 64).size == (64, 64)
