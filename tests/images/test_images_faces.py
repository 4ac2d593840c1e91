"""Faces cut out and laid back, where what comes of it can be said beforehand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdserver.images.faces import SIDE, Frame, Restored, cut, frame_of, paste
from sdserver.jobs.events import Picture

TEMPLATE = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
ALL = b"\xff" * SIDE**2


def placed(scale: float, angle: float, x: float, y: float) -> tuple[tuple[float, float], ...]:
    """The template's points in a picture: scaled and turned around its origin, then moved."""
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return tuple((cosine * a - sine * b + x, sine * a + cosine * b + y) for a, b in TEMPLATE)


def smooth(width: int, height: int) -> Picture:
    """Levels that change slowly, another way in each channel."""
    y, x = np.mgrid[:height, :width]
    levels = [127 + 100 * np.sin(x / 40 + c) * np.cos(y / 50 - c) for c in range(3)]
    return Picture(width, height, np.stack(levels, axis=-1).astype(np.uint8).tobytes())


def array(picture: Picture) -> np.ndarray:
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3).astype(int)


def framed(points: tuple[tuple[float, float], ...], width: int, height: int) -> Frame:
    frame = frame_of(points, width, height)
    assert frame is not None
    return frame


def test_a_face_that_lies_as_the_template_is_cut_out_as_it_is() -> None:
    picture = smooth(SIDE, SIDE)
    frame = framed(TEMPLATE, SIDE, SIDE)
    assert np.abs(frame.matrix - np.eye(2, 3)).max() < 1e-4
    assert cut(picture, frame) == picture


@given(st.floats(0.05, 3), st.floats(-3.1, 3.1), st.floats(-200, 800), st.floats(-200, 800))
@settings(max_examples=50, deadline=None)
def test_the_frame_brings_the_points_upon_the_template(
    scale: float, angle: float, x: float, y: float
) -> None:
    points = placed(scale, angle, x, y)
    frame = frame_of(points, 1000, 900)
    if frame is not None:
        there = np.array([(*point, 1) for point in points]) @ frame.matrix.T
        assert np.abs(there - TEMPLATE).max() < 0.1
        assert 0 <= frame.left < frame.right <= 1000
        assert 0 <= frame.top < frame.bottom <= 900


@pytest.mark.parametrize(
    "points",
    [
        ((1.0, 1.0),) * 5,
        TEMPLATE[:3],
        ((math.nan, 0.0), *TEMPLATE[1:]),
        ((math.inf, 0.0), *TEMPLATE[1:]),
        placed(1, 0, 5000, 0),
        placed(1, 0, 0, -5000),
    ],
    ids=["one point", "too few", "nan", "inf", "beside the picture", "above it"],
)
def test_what_makes_no_sense_is_no_face(points: tuple[tuple[float, float], ...]) -> None:
    assert frame_of(points, 600, 600) is None


def test_a_face_at_the_edge_is_filled_up_with_grey() -> None:
    picture = smooth(300, 300)
    face = array(cut(picture, framed(placed(1, 0, -256, 0), 300, 300)))
    assert (face[:250, :250] == (132, 133, 135)).all()
    assert np.array_equal(face[:290, 260:500], array(picture)[:290, 4:244])


def test_a_face_laid_back_as_it_is_changes_next_to_nothing() -> None:
    picture = smooth(640, 480)
    frame = framed(placed(0.6, 0.4, 250, 30), 640, 480)
    result = array(paste(picture, [Restored(frame, cut(picture, frame), ALL)]))
    assert np.abs(result - array(picture)).max() <= 2


def test_a_red_face_colours_the_face_alone() -> None:
    picture = smooth(300, 240)
    frame = framed(placed(0.3, 0.5, 150, 20), 300, 240)
    red = Picture(SIDE, SIDE, bytes([255, 0, 0]) * SIDE**2)
    before, after = array(picture), array(paste(picture, [Restored(frame, red, ALL)]))
    x, y = np.meshgrid(np.arange(300), np.arange(240))
    there = np.stack([x, y, np.ones_like(x)], axis=-1) @ frame.matrix.T
    edge = np.minimum(there.min(axis=-1), SIDE - there.max(axis=-1))
    assert (after[edge > 80] == (255, 0, 0)).mean() > 0.999
    assert (edge > 80).sum() > 5000
    assert np.array_equal(after[edge < 5], before[edge < 5])


def test_only_what_the_mask_shows_is_laid_back() -> None:
    picture = smooth(SIDE, SIDE)
    frame = framed(TEMPLATE, SIDE, SIDE)
    red = Picture(SIDE, SIDE, bytes([255, 0, 0]) * SIDE**2)
    assert paste(picture, [Restored(frame, red, bytes(SIDE**2))]) == picture
    upper = b"\xff" * (SIDE**2 // 2) + bytes(SIDE**2 // 2)
    result = array(paste(picture, [Restored(frame, red, upper)]))
    assert np.abs(result[100:180, 100:400] - (255, 0, 0)).max() <= 1
    assert np.array_equal(result[358:], array(picture)[358:])  # two blurs reach 50 pixels each


def test_later_faces_lie_upon_earlier_ones() -> None:
    picture = smooth(SIDE, SIDE)
    frame = framed(TEMPLATE, SIDE, SIDE)
    red, blue = (Picture(SIDE, SIDE, bytes(colour) * SIDE**2) for colour in ((255, 0, 0), (0, 0, 255)))
    both = paste(picture, [Restored(frame, red, ALL), Restored(frame, blue, ALL)])
    assert np.abs(array(both)[100:400, 100:400] - (0, 0, 255)).max() <= 1


def test_a_stripe_is_longer_than_opencv_can_warp() -> None:
    """Only the part where the face is goes there."""
    picture = smooth(40_000, 60)
    frame = framed(placed(0.1, 0, 39_000, 0), 40_000, 60)
    red = Picture(SIDE, SIDE, bytes([255, 0, 0]) * SIDE**2)
    result = array(paste(picture, [Restored(frame, red, ALL)]))
    assert np.abs(result[25, 39_025] - (255, 0, 0)).max() <= 1
    assert cut(picture, frame).width == SIDE
