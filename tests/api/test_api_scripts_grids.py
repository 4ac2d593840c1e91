"""Sheets: where cells stand, and how much room a legend takes."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdserver.api.option_rules import defaults
from sdserver.api.options import Snapshot
from sdserver.api.scripts.grids import MAX_LINES, Label, blank, cell_of, layout, sheet

OPTIONS = Snapshot(defaults())
WHITE = (255, 255, 255)


def labels(*texts: str) -> Sequence[Sequence[Label]]:
    return [[Label(text)] for text in texts]


def colors(image: Image.Image, box: tuple[int, int, int, int]) -> set[object]:
    return {color for _, color in image.crop(box).getcolors(10_000) or ()}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 20), st.booleans())
def test_cells_stand_where_the_layout_says(columns: int, rows: int, margin: int, has_legend: bool) -> None:
    above = labels(*(f"Seed: {k}" for k in range(columns))) if has_legend else blank(columns)
    beside = labels(*(f"row {k}" for k in range(rows))) if has_legend else blank(rows)
    laid = layout((64, 48), above, beside, margin)
    shades = [(k * 7, 200 - k, k) for k in range(columns * rows)]
    image = sheet([Image.new("RGB", (64, 48), shade) for shade in shades], laid, OPTIONS)
    assert image.size == laid.size
    pad = 48 if has_legend else 0
    assert image.width == 64 * columns + margin * (columns - 1) + pad
    for index, shade in enumerate(shades):
        left, top = laid.place(index % columns, index // columns)
        assert colors(image, (left, top, left + 64, top + 48)) == {shade}


def test_without_a_legend_there_is_nothing_else() -> None:
    assert layout((64, 64), blank(3), blank(2)).size == (192, 128)


def test_the_size_of_a_recorded_plot() -> None:
    assert layout((64, 64), labels("Seed: 5", "Seed: 6"), labels("a cat", "a dog"), 1).size == (177, 137)


def test_the_size_of_a_recorded_matrix() -> None:
    above = [[Label("red", is_active=False)], [Label("red")]]
    assert layout((64, 64), above, [[]], 4).size == (132, 72)


def test_labels_are_drawn_in_their_colours() -> None:
    options = OPTIONS.overridden(
        {
            "grid_text_active_color": "#ff0000",
            "grid_text_inactive_color": "#0000ff",
            "grid_background_color": "#00ff00",
        }
    )
    laid = layout((200, 100), [[Label("mmmm")], [Label("mmmm", is_active=False)]], blank(1))
    image = sheet([None, None], laid, options)
    left, top = laid.place(1, 0)
    assert top > 0
    active, inactive = colors(image, (0, 0, left, top)), colors(image, (left, 0, image.width, top))
    assert (255, 0, 0) in active
    assert (0, 0, 255) not in active
    assert (0, 0, 255) in inactive
    assert (0, 255, 0) in active & inactive


def test_a_long_word_is_made_smaller_and_stays_in_its_column() -> None:
    laid = layout((300, 100), labels("W" * 80, ""), blank(1))
    image = sheet([None, None], laid, OPTIONS)
    assert colors(image, (0, 0, 300, laid.pads[1])) != {WHITE}
    assert colors(image, (300, 0, 600, laid.pads[1])) == {WHITE}


def test_missing_pictures_are_black_and_smaller_ones_in_the_middle() -> None:
    laid = layout((40, 40), blank(2), blank(1))
    image = sheet([None, Image.new("RGB", (20, 10), (9, 9, 9))], laid, OPTIONS)
    assert colors(image, (0, 0, 40, 40)) == {(0, 0, 0)}
    assert colors(image, (50, 15, 70, 25)) == {(9, 9, 9)}
    assert colors(image, (40, 0, 80, 15)) == {WHITE}


def test_the_cell_is_as_large_as_the_largest() -> None:
    sizes = [(10, 50), (60, 20)]
    assert cell_of([Image.new("RGB", size) for size in sizes] + [None]) == (60, 50)
    assert cell_of([None]) is None


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=2000), st.integers(8, 4000), st.integers(8, 4000))
def test_any_label_takes_bounded_room(text: str, width: int, height: int) -> None:
    laid = layout((width, height), labels(text), labels(text))
    line = 2 * laid.font_size + 2  # glyphs are about as tall as the type
    assert laid.size[0] <= width * 7 // 4
    assert laid.size[1] <= height + (MAX_LINES + 1) * (line + laid.font_size)
    assert len(laid.columns[0].lines) <= MAX_LINES


@pytest.mark.parametrize(
    "text", ["\x00", "\n\t ", "ab" * 500, "a " * 500, "\u202e\u0301" * 50, "日本語" * 20]
)
def test_any_label_can_be_drawn(text: str) -> None:
    laid = layout((128, 128), labels(text), labels(text))
    assert sheet([None], laid, OPTIONS).size == laid.size
