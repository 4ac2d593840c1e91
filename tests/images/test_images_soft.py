"""Which pixels soft inpainting keeps, against the slow and plain way to find them."""

import math

import numpy as np
import pytest
from PIL import Image

from sdserver.images.finish import Finish
from sdserver.images.masks import Box
from sdserver.images.soft import _filtered, changed
from sdserver.jobs.events import Picture
from sdserver.jobs.job import SoftInpainting

SOFT = SoftInpainting()
PAINT_ALL = np.ones((9, 11), np.float32)


def plain_filter(values, low, high):
    """Cell by cell: sort what is around, stack the weights, take what lies between the quantiles."""

    def weight(dy, dx):
        end = math.exp(-9 / 2.25)
        return max((math.exp(-(dy * dy + dx * dx) / 2.25) - end) / (1 - end), 0)

    result = np.empty_like(values)
    for (y, x), _ in np.ndenumerate(values):
        around = sorted(
            (values[i, j], weight(i - y, j - x))
            for i in range(max(y - 2, 0), min(y + 3, values.shape[0]))
            for j in range(max(x - 2, 0), min(x + 3, values.shape[1]))
        )
        total = sum(share for _, share in around)
        first, last = total * low, total * high
        if last - first < 1:
            first, last = (first + last) / 2 - 0.5, (first + last) / 2 + 0.5
            if last > total:
                first, last = total - 1, total
            if first < 0:
                first, last = 0, 1
        height = found = weighed = 0.0
        for value, share in around:
            overlap = max(min(last, height + share) - max(first, height), 0)
            found, weighed, height = found + value * overlap, weighed + overlap, height + share
        result[y, x] = found / weighed
    return result


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.0), (0.25, 0.75), (0.0, 0.1), (0.0, 1.0)])
def test_the_filter_is_the_plain_one(low, high):
    values = np.random.default_rng(3).random((7, 9), dtype=np.float32)
    np.testing.assert_allclose(_filtered(values, low, high), plain_filter(values, low, high), rtol=1e-5)


def level(distance, **changes):
    """What a flat difference becomes."""
    soft = SoftInpainting(**changes)
    levels = changed(np.full((9, 11), distance, np.float32), PAINT_ALL, soft)
    assert len(set(levels)) == 1
    assert len(levels) == 99
    return levels[0]


def test_what_has_not_changed_is_kept_and_what_has_is_new():
    assert level(0) == 0
    assert level(100) == 255
    assert level(0.5) == pytest.approx(127, abs=1), "the threshold is where half shows through"
    assert level(2, threshold=2) == pytest.approx(127, abs=1)
    levels = [level(distance) for distance in (0.1, 0.3, 0.5, 0.8, 1.5)]
    assert levels == sorted(set(levels))


def test_limits_of_threshold_and_contrast():
    assert (level(0, threshold=0), level(1e-3, threshold=0)) == (0, 255)
    assert level(0, contrast=0) == level(9, contrast=0) == 127
    assert level(0.4, contrast=8) < level(0.4) < 127 < level(0.6) < level(0.6, contrast=8)


def test_the_mask_may_decide():
    paint = np.concatenate([np.zeros((9, 8)), np.ones((9, 8))], axis=1).astype(np.float32)
    distance = np.full((9, 16), 0.5, np.float32)
    levels = np.frombuffer(changed(distance, paint, SoftInpainting(mask_influence=1)), np.uint8)
    levels = levels.reshape(9, 16)
    assert (levels[:, :8] == 0).all()
    assert (levels[:, 8:] == 255).all()


def flat(size, colour):
    return Image.new("RGB", size, colour)


def painted(size):
    return Picture(*size, flat(size, "red").tobytes())


def test_new_parts_show_the_painted_picture_and_the_others_the_original():
    finish = Finish(original=flat((128, 64), "blue"))
    new_parts = (bytes(8) + bytes([255]) * 8) * 8
    result = finish.softened(painted((128, 64)), new_parts)
    row = result.apply(painted((128, 64))).pixels[: 128 * 3]
    assert row[:3] == bytes((0, 0, 255))
    assert row[-3:] == bytes((255, 0, 0))
    reds = list(row[::3])
    assert reds == sorted(reds), "blurred, without steps back"
    assert result.mask.getpixel((127, 0)) == 255


def test_a_painted_part_goes_to_its_place():
    box = Box(32, 16, 64, 48)
    finish = Finish(original=flat((96, 64), "blue"), region=box)
    picture = finish.softened(painted((64, 64)), bytes([255]) * 64).apply(painted((64, 64)))
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(64, 96, 3)
    assert (pixels[20:44, 36:60] == (255, 0, 0)).all()
    pixels = pixels.copy()
    pixels[16:48, 32:64] = (0, 0, 255)
    assert (pixels == (0, 0, 255)).all()


def test_nothing_is_softened_that_was_not_to_be():
    plain = Finish()
    assert plain.softened(painted((64, 64)), b"") is plain
    waiting = Finish(original=flat((64, 64), "blue"))
    assert waiting.softened(painted((64, 64)), b"") is waiting
