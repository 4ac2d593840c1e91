from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from sdserver.images.tiles import combine, enlarged, replaced, split, tile_count


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("width", "height"), [(40, 24), (41, 30), (100, 71), (73, 24)])
def test_tiles_cover_the_picture_and_make_it_again(width: int, height: int) -> None:
    image = noise(width, height)
    tiles = split(image, 40, 24, 8)
    for starts, tile, side in (
        ([tile.left for tile in tiles.rows[0]], 40, width),
        ([row[0].top for row in tiles.rows], 24, height),
    ):
        assert (starts[0], starts[-1]) == (0, side - tile)
        assert all(after - before <= tile - 8 for before, after in pairwise(starts))
    assert {tile.image.size for row in tiles.rows for tile in row} == {(40, 24)}
    assert np.array_equal(np.asarray(combine(tiles)), np.asarray(image))


def test_a_picture_smaller_than_a_tile_ends_where_the_tile_does() -> None:
    image = noise(10, 12)
    ((tile,),) = split(image, 40, 24, 8).rows
    assert (tile.left, tile.top) == (-30, -12)
    values = np.asarray(tile.image)
    assert not values[:12].any()
    assert not values[:, :30].any()
    assert np.array_equal(values[12:, 30:], np.asarray(image))
    assert np.array_equal(np.asarray(combine(split(image, 40, 24, 8))), np.asarray(image))


def test_a_picture_a_little_smaller_than_a_tile_fades_from_black() -> None:
    """AUTOMATIC1111's behaviour: the tile's first columns, 4 of them outside, are blended as at a seam."""
    white = Image.new("RGB", (36, 24), "white")
    values = np.asarray(combine(split(white, 40, 24, 8)))
    assert values[0, :6, 0].tolist() == [127, 159, 191, 223, 255, 255]


def test_neighbours_fade_into_each_other() -> None:
    tiles = split(noise(72, 24), 40, 24, 8)
    black, white = Image.new("RGB", (80, 48)), Image.new("RGB", (80, 48), "white")
    whole = combine(enlarged(tiles, [[black, white]], 2))
    assert whole.size == (144, 48)
    row = np.asarray(whole)[10, :, 0]
    assert not row[:65].any()
    assert row[64:80].tolist() == [int(k * 255 / 16) for k in range(16)]
    assert set(row[80:].tolist()) == {255}


@pytest.mark.parametrize(("width", "height"), [(40, 24), (41, 30), (100, 71), (10, 12)])
def test_tiles_are_counted_without_cutting(width: int, height: int) -> None:
    rows = split(noise(width, height), 40, 24, 8).rows
    assert tile_count((width, height), (40, 24), 8) == sum(map(len, rows))


def test_tiles_are_replaced_in_order_as_far_as_there_are_new_ones() -> None:
    tiles = split(noise(72, 40), 40, 24, 8)
    new = [Image.new("RGB", (40, 24), (level, 0, 0)) for level in (1, 2, 3)]
    found = [tile for row in replaced(tiles, new).rows for tile in row]
    assert [tile.image for tile in found[:3]] == new
    assert found[3] == tiles.rows[1][1]
    places = [(tile.left, tile.top) for row in tiles.rows for tile in row]
    assert [(tile.left, tile.top) for tile in found] == places
