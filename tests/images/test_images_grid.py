"""The grid's rows follow AUTOMATIC1111's rule and its cells hold the pictures."""

import pytest

from sdserver.images.grid import grid_rows, make_grid
from sdserver.jobs.events import Picture


def flat(value: int, width: int = 2, height: int = 3) -> Picture:
    return Picture(width, height, bytes([value]) * (width * height * 3))


@pytest.mark.parametrize(
    ("count", "batch", "option", "rows"),
    [
        (1, 1, -1, 1),
        (2, 2, -1, 1),
        (3, 3, -1, 2),
        (4, 2, -1, 2),
        (7, 1, -1, 3),
        (6, 3, 0, 3),
        (2, 8, 0, 2),
        (5, 1, 2, 2),
    ],
)
def test_rows(count: int, batch: int, option: float, rows: int) -> None:
    assert grid_rows(count, batch, option) == rows


@pytest.mark.parametrize(("count", "rows"), [(6, 2), (7, 1), (9, 3), (8, 2)])
def test_rows_without_gaps_divide_the_count(count: int, rows: int) -> None:
    assert grid_rows(count, 1, prevent_empty_spots=True) == rows


def test_two_pictures_stand_side_by_side() -> None:
    sheet = make_grid([flat(10), flat(20)], 1)
    assert (sheet.width, sheet.height) == (4, 3)
    assert sheet.pixels == (bytes([10]) * 6 + bytes([20]) * 6) * 3


def test_gaps_have_the_background() -> None:
    sheet = make_grid([flat(1), flat(2), flat(3)], 2, "#102030")
    assert (sheet.width, sheet.height) == (4, 6)
    assert sheet.pixels[-6:] == bytes([16, 32, 48]) * 2


def test_no_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        make_grid([], 1)
