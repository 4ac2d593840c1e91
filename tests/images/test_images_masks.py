"""Masks: what a client's picture means, blur, and the part of a picture that is painted alone."""

import numpy as np
import pytest
from PIL import Image

from sdserver.errors import InvalidField
from sdserver.images import masks


def with_alpha(*alphas: int) -> Image.Image:
    image = Image.new("RGBA", (len(alphas), 1), "#ffffff")
    image.putalpha(Image.fromarray(np.array([alphas], np.uint8)))
    return image


def levels(image: Image.Image) -> list[int]:
    return list(np.asarray(image).ravel())


def square(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def test_transparency_counts_above_128() -> None:
    mask = masks.from_picture(with_alpha(0, 128, 129, 255), is_rounded=True)
    assert levels(mask) == [0, 0, 255, 255]


def test_transparency_is_kept_where_masks_are_not_rounded() -> None:
    mask = masks.from_picture(with_alpha(0, 128, 129, 255), is_rounded=False)
    assert levels(mask) == [0, 128, 129, 255]


def test_opaque_pictures_mean_their_brightness() -> None:
    assert levels(masks.from_picture(with_alpha(255, 255), is_rounded=True)) == [255, 255]
    grey = Image.new("RGB", (1, 1), (100, 100, 100))
    assert levels(masks.from_picture(grey, is_rounded=True)) == [100]


def test_blur_is_a_gaussian_of_its_own_width_in_each_direction() -> None:
    blurred = np.asarray(masks.blur(square((61, 61), (30, 0, 61, 61)), 6, 0)).astype(int)
    assert (blurred == blurred[0]).all()
    offsets = np.arange(-15, 16)
    kernel = np.exp(-(offsets**2) / 72)
    edge = np.convolve(np.repeat([0, 255], [46, 46]), kernel / kernel.sum(), "same")[16:77]
    assert abs(blurred[0] - edge).max() <= 1
    assert np.asarray(masks.blur(square((61, 61), (0, 30, 61, 61)), 0, 6)).T.tolist() == blurred.tolist()


def test_no_blur_is_none() -> None:
    mask = square((8, 8), (2, 2, 5, 5))
    assert masks.blur(mask, 0, -3).tobytes() == mask.tobytes()


def test_blur_that_would_take_minutes_is_refused() -> None:
    with pytest.raises(InvalidField, match="at most 156 pixels"):
        masks.blur(Image.new("L", (4000, 4000), 255), 512, 512)


def test_doubling_saturates() -> None:
    mask = Image.fromarray(np.array([[0, 1, 127, 128, 255]], np.uint8))
    assert levels(masks.doubled(mask)) == [0, 2, 254, 255, 255]


def test_nothing_masked_has_no_region() -> None:
    assert masks.crop_region(Image.new("L", (32, 32)), 4, 64, 64) is None


@pytest.mark.parametrize(
    ("box", "padding", "size", "expected"),
    [
        ((40, 40, 60, 60), 0, (64, 64), (40, 40, 60, 60)),
        ((40, 40, 60, 60), 5, (64, 64), (35, 35, 65, 65)),
        ((2, 2, 22, 22), 5, (64, 64), (0, 0, 27, 27)),
        ((40, 40, 60, 60), 0, (128, 64), (30, 40, 70, 60)),
        ((40, 40, 60, 60), 0, (64, 128), (40, 30, 60, 70)),
        ((0, 40, 20, 60), 0, (128, 64), (0, 40, 40, 60)),
        ((80, 40, 100, 60), 0, (128, 64), (60, 40, 100, 60)),
        ((40, 0, 60, 90), 0, (128, 64), (0, 0, 100, 90)),
        ((40, 40, 47, 60), 0, (64, 64), (34, 40, 54, 60)),
    ],
)
def test_region_is_padded_and_widened_to_the_proportions_inside_the_picture(
    box: tuple[int, int, int, int], padding: int, size: tuple[int, int], expected: tuple[int, int, int, int]
) -> None:
    assert masks.crop_region(square((100, 100), box), padding, *size) == expected


def test_padding_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InvalidField):
        masks.crop_region(square((100, 100), (40, 40, 60, 60)), -10, 64, 64)


def test_latent_mask_has_an_eighth_of_the_size_rounded_down() -> None:
    values = masks.latent(square((100, 84), (0, 0, 50, 84)), 100, 84)
    rows = np.frombuffer(values, np.uint8).reshape(10, 12)
    assert rows[:, :5].min() >= 250
    assert rows[:, 7:].max() <= 5
