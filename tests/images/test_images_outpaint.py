import numpy as np
import pytest
from PIL import Image

from sdserver.images.outpaint import SIDES, Borders, borders, frame, passes


@pytest.mark.parametrize("size", [(64, 64), (100, 70), (1, 1), (129, 63)])
@pytest.mark.parametrize("sides", [("left",), ("right", "up"), ("left", "right"), SIDES])
@pytest.mark.parametrize("pixels", [1, 8, 32, 65])
def test_borders_are_as_wide_as_asked_and_make_the_whole_a_multiple_of_64(
    size: tuple[int, int], sides: tuple[str, ...], pixels: int
) -> None:
    added = borders(size, pixels, sides)
    whole = added.around(size)
    for place, (before, after) in enumerate((("left", "right"), ("up", "down"))):
        asked = [side for side in (before, after) if side in sides]
        assert whole[place] % 64 == 0 if asked else whole[place] == size[place]
        assert all(getattr(added, side) >= pixels for side in asked)
        assert all(getattr(added, side) == 0 for side in {before, after} - set(asked))
    assert abs(added.left - added.right) <= 1 or not {"left", "right"} <= set(sides)


def test_a_frame_is_black_where_the_picture_is_kept() -> None:
    values = np.asarray(frame((8, 6), (2, 1, 5, 6)))
    expected = np.full((6, 8), 255)
    expected[1:, 2:6] = 0
    assert np.array_equal(values, expected)
    assert np.asarray(frame((8, 6), (5, 1, 4, 3))).min() == 255


def test_passes_go_one_after_the_other() -> None:
    steps = passes((100, 70), Borders(20, 8, 0, 58), (64, 512), 4)
    assert [(step.side, step.before, step.after) for step in steps] == [
        ("left", (100, 70), (120, 70)),
        ("right", (120, 70), (128, 70)),
        ("down", (128, 70), (128, 128)),
    ]
    assert [step.painted for step in steps] == [(64, 128), (64, 128), (128, 128)]
    assert [step.corner for step in steps] == [(0, 0), (64, 0), (0, 0)]
    assert [step.part(step.mask()).size for step in steps] == [step.painted for step in steps]
    assert [step.latent_mask().size for step in steps] == [step.painted for step in steps]


@pytest.mark.parametrize("side", SIDES)
def test_a_pass_paints_what_is_new_and_a_little_of_the_old(side: str) -> None:
    (step,) = passes((64, 64), borders((64, 64), 32, [side]), (96, 96), 4)
    assert step.pixels == 64
    canvas = step.canvas_of(Image.new("RGB", (64, 64), "red"))
    assert canvas.size == step.canvas == step.after
    masked = np.asarray(step.mask()) == 255
    is_new = np.asarray(canvas).max(-1) == 0
    assert masked[is_new].all()
    # A frame's last row belongs to what is kept, so the border lies one pixel further out there.
    assert masked[~is_new].sum() == 64 * (4 if side in ("left", "up") else 3)
    result = step.pasted(canvas, Image.new("RGB", step.painted, "blue"))
    is_blue = np.asarray(result)[..., 2] == 255
    assert is_blue[is_new].all()
    assert is_blue[~is_new].sum() == 32 * 64


def test_what_was_painted_smaller_lies_at_the_outer_border() -> None:
    """Latents have whole cells of 8 pixels, so a side of 70 pixels comes back with 64."""
    (step,) = passes((64, 64), borders((64, 64), 64, ["right"]), (70, 70), 4)
    result = step.pasted(step.canvas_of(Image.new("RGB", (64, 64))), Image.new("RGB", (64, 64), "blue"))
    assert np.asarray(result)[0, :, 2].tolist() == [0] * 64 + [255] * 64
