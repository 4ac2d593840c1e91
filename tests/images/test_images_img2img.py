"""From a client's picture to what img2img starts with, and what is done to the result."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sdserver.errors import InvalidField
from sdserver.images.colour import correct, lab
from sdserver.images.img2img import Preparation, Preparing, prepare
from sdserver.images.pictures import content_hash, to_image, to_picture
from sdserver.jobs.events import Picture
from sdserver.jobs.job import MaskedContent

PLAIN = Preparation(64, 48)


def stripes(width: int = 64, height: int = 48) -> Image.Image:
    rows, columns = np.indices((height, width))
    return Image.fromarray(np.stack([columns * 3, rows * 5, columns + rows], -1).astype(np.uint8))


def mask(size: tuple[int, int] = (64, 48), box: tuple[int, int, int, int] = (16, 16, 32, 32)) -> Image.Image:
    image = Image.new("L", size)
    image.paste(255, box)
    return image


MASKED = replace(PLAIN, mask=mask(), mask_blur_x=0, mask_blur_y=0, only_masked=False, content="original")


def array(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(to_image(picture))


def solid(colour: str, width: int = 64, height: int = 48) -> Picture:
    return to_picture(Image.new("RGB", (width, height), colour))


def test_without_a_mask_all_is_painted_and_the_result_stays() -> None:
    prepared = prepare(stripes(), PLAIN)
    assert prepared.init == to_picture(stripes())
    assert prepared.mask is None
    assert not prepared.resize_latent
    assert prepared.finish.apply(solid("#123456")) == solid("#123456")
    assert prepared.finish.mask_picture() is None
    assert prepared.finish.mask_composite(solid("#123456")) is None


def test_transparency_shows_the_background() -> None:
    clear = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    assert prepare(clear, replace(PLAIN, background="#ff0080")).init == solid("#ff0080")


def test_a_background_that_is_no_colour_is_refused() -> None:
    with pytest.raises(InvalidField, match="colour"):
        prepare(stripes(), replace(PLAIN, background="reddish"))


def test_latent_resize_keeps_the_picture_as_it_is() -> None:
    prepared = prepare(stripes(100, 30), replace(PLAIN, resize_mode=3))
    assert prepared.resize_latent
    assert prepared.init == to_picture(stripes(100, 30))


def test_sizes_need_no_whole_cells() -> None:
    prepared = prepare(stripes(), replace(MASKED, width=60, height=44))
    assert (prepared.init.width, prepared.init.height) == (60, 44)
    assert prepared.mask is not None
    assert len(prepared.mask.pixels) == 60 * 44
    assert len(prepared.mask.latent) == 7 * 5
    finished = prepared.finish.apply(solid("#00ff00", 56, 40))
    assert (finished.width, finished.height) == (56, 40)


def test_what_is_not_masked_stays() -> None:
    finished = array(prepare(stripes(), MASKED).finish.apply(solid("#00ff00")))
    inside = np.asarray(mask()) > 0
    assert (finished[inside] == (0, 255, 0)).all()
    assert np.array_equal(finished[~inside], np.asarray(stripes())[~inside])


def test_inverted_masks_keep_what_is_masked() -> None:
    finished = array(prepare(stripes(), replace(MASKED, invert=True)).finish.apply(solid("#00ff00")))
    inside = np.asarray(mask()) > 0
    assert (finished[~inside] == (0, 255, 0)).all()
    assert np.array_equal(finished[inside], np.asarray(stripes())[inside])


def test_only_masked_paints_the_region_at_the_whole_size() -> None:
    large = Image.new("RGB", (640, 480), "#0000ff")
    large.paste("#ff0000", (160, 120, 320, 240))
    preparation = replace(MASKED, mask=mask((640, 480), (160, 120, 320, 240)), only_masked=True)
    prepared = prepare(large, preparation)
    assert prepared.is_cropped
    assert prepared.init == solid("#ff0000")
    finished = array(prepared.finish.apply(solid("#00ff00")))
    assert finished.shape == (480, 640, 3)
    assert (finished[120:240, 160:320] == (0, 255, 0)).all()
    assert np.count_nonzero((finished == (0, 0, 255)).all(-1)) == 640 * 480 - 160 * 120


def test_only_masked_without_overlay_gives_the_region_alone() -> None:
    prepared = prepare(stripes(), replace(MASKED, only_masked=True, overlay=False))
    assert prepared.finish.apply(solid("#00ff00")) == solid("#00ff00")


def test_only_masked_with_nothing_masked_paints_all() -> None:
    empty = Image.new("L", (64, 48))
    prepared = prepare(stripes(), replace(MASKED, mask=empty, only_masked=True))
    assert prepared.mask is None
    assert not prepared.is_cropped
    assert prepared.finish.apply(solid("#00ff00")) == solid("#00ff00")


def test_nothing_masked_in_the_whole_picture_paints_nothing() -> None:
    prepared = prepare(stripes(), replace(MASKED, mask=Image.new("L", (64, 48))))
    assert prepared.mask is not None
    assert not any(prepared.mask.latent)
    assert prepared.finish.apply(solid("#00ff00")) == to_picture(stripes())


@pytest.mark.parametrize("content", ["fill", "latent noise", "latent nothing"])
def test_all_contents_but_original_begin_with_the_colours_around(content: MaskedContent) -> None:
    image = Image.new("RGB", (64, 48), "#2040a0")
    image.paste("#ffffff", (16, 16, 32, 32))
    prepared = prepare(image, replace(MASKED, content=content))
    assert abs(array(prepared.init).astype(int) - (0x20, 0x40, 0xA0)).max() <= 3
    assert prepared.mask is not None
    assert prepared.mask.content == content
    assert prepare(image, MASKED).init == to_picture(image)


@pytest.mark.parametrize("content", ["fill", "original"])
def test_masks_of_another_size_are_brought_to_the_pictures(content: MaskedContent) -> None:
    """AUTOMATIC1111 fails where the latent is resized and the masked area is filled."""
    preparation = replace(MASKED, mask=mask((32, 24), (8, 8, 16, 16)), resize_mode=3, content=content)
    prepared = prepare(stripes(128, 96), preparation)
    assert prepared.finish.overlay is not None
    assert prepared.finish.overlay.size == (128, 96)
    assert prepared.mask is not None
    assert len(prepared.mask.pixels) == 64 * 48


def test_settings_of_the_mask_reach_the_job() -> None:
    prepared = prepare(stripes(), replace(MASKED, is_mask_rounded=False, conditioning_weight=0.25))
    assert prepared.mask is not None
    assert not prepared.mask.is_rounded
    assert prepared.mask.conditioning_weight == 0.25
    assert prepared.mask.pixels == mask().tobytes()


def test_corrected_colours_have_the_targets_hue_and_their_own_luminosity() -> None:
    painted = stripes()
    target = Image.fromarray(np.asarray(stripes())[..., ::-1] // 2)
    corrected = np.asarray(correct(painted, lab(target)))
    weights = np.array([0.299, 0.587, 0.114])
    assert abs(corrected @ weights - np.asarray(painted) @ weights).max() < 1.01
    red, _, blue = np.asarray(painted).mean((0, 1))
    assert red > 1.5 * blue
    red, _, blue = corrected.mean((0, 1))
    assert blue > red


def test_a_latent_mask_of_its_own_is_what_is_filled_and_painted() -> None:
    asked = Preparation(64, 48, mask=mask(), only_masked=False, mask_blur_x=0, mask_blur_y=0)
    own = mask(box=(32, 16, 64, 32))
    plain, other = prepare(stripes(), asked), prepare(stripes(), replace(asked, latent_mask=own))
    assert plain.mask is not None
    assert other.mask is not None
    assert other.mask.pixels == plain.mask.pixels
    wanted = prepare(stripes(), replace(asked, mask=own)).mask
    assert wanted is not None
    assert other.mask.latent == wanted.latent
    assert np.array_equal(array(other.init)[16:32, 16:30], array(to_picture(stripes()))[16:32, 16:30])
    assert not np.array_equal(array(other.init)[16:32, 32:], array(plain.init)[16:32, 32:])


def test_colours_of_another_picture() -> None:
    asked = Preparation(64, 48, colour_correction=True)
    other = Image.new("RGBA", (5, 7), "#80402000")
    found = prepare(stripes(), replace(asked, colours=other)).finish.colours
    assert found is not None
    assert np.array_equal(found, lab(other.convert("RGB")))
    assert prepare(stripes(), replace(asked, colours=other, colour_correction=False)).finish.colours is None


def test_hash_is_of_the_pixels() -> None:
    assert content_hash(Image.new("L", (2, 1), 65)) == "3b98e2dffc6cb06a89dcb0d5c60a0206"


def test_what_something_else_enlarged_takes_the_place_of_lanczos() -> None:
    asked = replace(PLAIN, resize_mode=1, tells_unfitted=True)
    first = prepare(stripes(32, 32), asked)
    assert first.unfitted is not None
    assert first.unfitted.size == (64, 64)
    assert first.unfitted.image.tobytes() == stripes(32, 32).tobytes()
    assert prepare(stripes(32, 32), replace(asked, tells_unfitted=False)).unfitted is None
    fitted = Image.new("RGB", (64, 64), "#123456")
    again = Preparing(asked).prepare(stripes(32, 32), fitted)
    assert again.init == solid("#123456")
    assert again.unfitted is None
    assert Preparing(asked).prepare(stripes(32, 32), fitted.resize((8, 8))).init == first.init, "of its size"


@pytest.mark.parametrize(("size", "mode"), [((64, 48), 0), ((100, 90), 1), ((100, 90), 2), ((8, 8), 3)])
def test_only_pictures_that_become_larger_are_unfitted(size: tuple[int, int], mode: int) -> None:
    assert prepare(stripes(*size), replace(PLAIN, resize_mode=mode, tells_unfitted=True)).unfitted is None


def test_a_part_that_was_enlarged_otherwise_is_put_in_its_place() -> None:
    whole = mask((256, 192), (64, 64, 192, 160))
    finish = prepare(stripes(256, 192), replace(MASKED, mask=whole, only_masked=True)).finish
    painted = solid("#102030")
    found = finish.unfitted(painted)
    assert found is not None
    assert found.image.tobytes() == to_image(painted).tobytes()
    assert found.size == (128, 96)
    other = replace(finish, fitted=Image.new("RGB", found.size, "#ff0000"))
    assert array(other.apply(painted))[100, 128].tolist() == [255, 0, 0]
    composite = other.mask_composite(painted)
    assert composite is not None
    assert composite.getpixel((128, 100)) == (255, 0, 0, 255)
    assert array(other.apply_without_correction(painted))[100, 128].tolist() == [16, 32, 48]
    assert prepare(stripes(), MASKED).finish.unfitted(painted) is None, "it is the whole picture"
