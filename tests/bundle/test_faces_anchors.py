"""From a detector's values to faces: closed forms on values made by hand."""

import math

import numpy as np

from sdserver.bundle.faces.anchors import LEAST_SURE, MOST_BOXES, Boxes, anchors, apart, boxes_of


def values(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(count, np.float32), np.zeros((count, 4), np.float32), np.zeros((count, 10), np.float32)


def found(places: dict[int, float], width: int = 64, height: int = 48) -> Boxes:
    scores, moves, points = values(len(anchors(width, height)))
    for place, score in places.items():
        scores[place] = score
    return boxes_of(scores, moves, points, width, height)


def test_anchors_lie_in_the_middle_of_cells_level_by_level() -> None:
    grid = anchors(65, 33)
    assert len(grid) == 2 * (9 * 5 + 5 * 3 + 3 * 2)  # a cell that is cut off counts
    assert grid[:4].tolist() == [[4, 4, 16], [4, 4, 32], [12, 4, 16], [12, 4, 32]]
    assert grid[2 * 9].tolist() == [4, 12, 16]  # the second row
    assert grid[2 * 45].tolist() == [8, 8, 64]  # the second level
    assert grid[-1].tolist() == [80, 48, 512]


def test_an_anchor_that_is_not_moved_is_the_box() -> None:
    boxes = found({2: 0.99})
    assert boxes.corners.tolist() == [[4, -4, 20, 12]]
    assert boxes.points.tolist() == [[[12, 4]] * 5]
    assert boxes.scores.tolist() == [np.float32(0.99)]


def test_moves_are_shares_of_the_side_and_sides_are_logarithms() -> None:
    scores, moves, points = values(len(anchors(64, 48)))
    scores[3] = 1
    moves[3] = (5, -2.5, math.log(2) / 0.2, math.log(0.5) / 0.2)
    points[3] = np.arange(10)
    boxes = boxes_of(scores, moves, points, 64, 48)
    # The anchor's centre is (12, 4), its side 32.
    assert np.abs(boxes.corners - [[28 - 32, -4 - 8, 28 + 32, -4 + 8]]).max() < 1e-4
    assert np.abs(boxes.points[0] - [[12 + 3.2 * k, 4 + 3.2 * (k + 1)] for k in range(0, 10, 2)]).max() < 1e-5


def test_what_is_not_sure_enough_is_left_out() -> None:
    assert len(found({2: LEAST_SURE, 20: 0.5}).scores) == 0
    assert len(found({2: LEAST_SURE + 0.001}).scores) == 1


def test_the_surest_of_boxes_that_overlap_is_left() -> None:
    boxes = found({0: 0.98, 2: 0.99, 6: 0.975})
    # Anchors 0 and 2 share half of 16 pixels, which is a third of both together; so all three are left.
    assert boxes.scores.tolist() == [np.float32(score) for score in (0.99, 0.98, 0.975)]
    boxes = found({1: 0.98, 3: 0.99, 15: 0.975})
    # Sides of 32 pixels, 8 apart: three fifths.
    assert boxes.scores.tolist() == [np.float32(0.99), np.float32(0.975)]


def test_overlap_is_measured_by_what_both_cover() -> None:
    large, small = [0, 0, 10, 10], [0, 0, 10, 4]
    assert apart(np.array([large, small], np.float32)) == [0, 1]  # exactly 0.4
    assert apart(np.array([large, [0, 0, 10, 4.1]], np.float32)) == [0]
    assert apart(np.array([large, large, [20, 0, 30, 10]], np.float32)) == [0, 2]
    assert apart(np.zeros((0, 4), np.float32)) == []


def test_values_that_are_no_numbers_are_no_faces() -> None:
    scores, moves, points = values(len(anchors(64, 48)))
    scores[:5] = (1, 1, 1, 1, np.nan)
    moves[0, 2], moves[1, 0], points[2, 9] = 1e9, np.nan, np.inf
    assert boxes_of(scores, moves, points, 64, 48).corners.tolist() == [[-4, -12, 28, 20]]


def test_a_picture_full_of_faces_takes_a_bounded_time() -> None:
    count = len(anchors(1600, 640))
    scores, moves, points = values(count)
    scores[:] = 1
    moves[:, 2:] = -20  # so small that none overlap
    assert count > 2 * MOST_BOXES
    assert len(boxes_of(scores, moves, points, 1600, 640).scores) <= MOST_BOXES
