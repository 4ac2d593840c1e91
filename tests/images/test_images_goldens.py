"""What is done to pictures around img2img equals AUTOMATIC1111's recorded answers, byte for byte."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdserver.images.codec import PictureFormat, encode
from sdserver.images.decode import read
from sdserver.images.img2img import Preparation, prepare
from sdserver.images.pictures import to_image, to_picture

GOLDENS = Path(__file__).parents[1] / "goldens" / "images" / "img2img"


def golden(name: str) -> Image.Image:
    return Image.open(io.BytesIO((GOLDENS / f"{name}.png").read_bytes()))


def client_picture(name: str) -> Image.Image:
    return read((GOLDENS / f"{name}.png").read_bytes(), "init_images", 2**20)


SHARP = Preparation(
    128, 128, mask=client_picture("mask_128"), mask_blur_x=0, mask_blur_y=0,
    only_masked=False, content="original",
)  # fmt: skip
BLURRED = replace(SHARP, mask_blur_x=4, mask_blur_y=4)
MASK_64 = client_picture("mask_64")

KEEPS_SOMETHING = {
    "return_mask": ("init_128", SHARP, 13885),
    "blur_xy": ("init_128", replace(BLURRED, mask_blur_x=8, mask_blur_y=2), 11143),
    "invert_blur": ("init_128", replace(BLURRED, invert=True), 899),
    "full_160": (
        "init_160x96", replace(BLURRED, width=160, height=96, only_masked=True, padding=4), 10956,
    ),
    "m_mask_64_full": ("init_128", replace(BLURRED, mask=MASK_64, only_masked=True), 7340),
    "resize3": ("init_128", replace(BLURRED, width=96, height=64, resize_mode=3), 4866),
    "rgba_init": ("init_rgba", SHARP, 13885),
}  # fmt: skip


@pytest.mark.parametrize("case", KEEPS_SOMETHING)
def test_what_is_not_masked_is_the_recorded_picture_whatever_was_painted(case: str) -> None:
    name, preparation, kept = KEEPS_SOMETHING[case]
    expected = golden(case)
    painted = to_picture(Image.new("RGB", expected.size, "#40ff00"))
    finish = prepare(client_picture(name), preparation).finish
    ours = np.asarray(to_image(finish.apply(painted)))
    assert finish.overlay is not None
    opaque = np.asarray(finish.overlay)[: expected.height, : expected.width, 3] == 255
    assert np.count_nonzero(opaque) == kept
    assert np.array_equal(ours[opaque], np.asarray(expected)[opaque])


def test_overlay_mask_and_composite() -> None:
    finish = prepare(client_picture("init_128"), SHARP).finish
    painted = to_picture(golden("overlay_off"))
    assert finish.apply(painted) == to_picture(golden("return_mask"))
    assert finish.mask_picture() == to_picture(golden("return_mask_mask"))
    composite = finish.mask_composite(painted)
    assert composite is not None
    assert composite.mode == "RGBA"
    assert composite.tobytes() == golden("return_mask_composite").tobytes()


def test_without_overlay_the_painted_picture_is_the_answer() -> None:
    finish = prepare(client_picture("init_128"), replace(SHARP, overlay=False)).finish
    painted = to_picture(golden("overlay_off"))
    assert finish.apply(painted) == painted
    assert finish.mask_picture() == to_picture(golden("return_mask_mask"))


def test_colour_correction() -> None:
    preparation = Preparation(128, 128, colour_correction=True)
    finish = prepare(client_picture("init_128"), preparation).finish
    painted = to_picture(golden("plain"))
    assert finish.apply(painted) == to_picture(golden("colour_correction"))
    assert finish.apply_without_correction(painted) == painted


@pytest.mark.parametrize(("picture_format", "quality"), [("jpg", 80), ("webp", 60)])
def test_lossy_files_decode_to_the_same_pixels(picture_format: PictureFormat, quality: int) -> None:
    recorded = (GOLDENS / f"opt_{picture_format}.{picture_format}").read_bytes()
    ours = Image.open(io.BytesIO(encode(to_picture(golden("opt_png")), picture_format, quality=quality)))
    assert ours.tobytes() == Image.open(io.BytesIO(recorded)).tobytes()
