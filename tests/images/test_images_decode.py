"""Pictures as clients send them."""

import base64
import io
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import Base

from sdserver.errors import InvalidField
from sdserver.images.decode import decode

LIMIT = 10_000


def text_of(image: Image.Image, picture_format: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


RED = Image.new("RGB", (4, 2), "#ff0000")


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:image/webp;charset=utf-8;base64,"])
def test_with_and_without_data_uri(prefix: str) -> None:
    assert decode(prefix + text_of(RED), "mask", LIMIT).tobytes() == RED.tobytes()


def test_characters_outside_the_alphabet_are_skipped() -> None:
    text = text_of(RED)
    assert decode(f" {text[:20]}\r\n{text[20:]}\n", "mask", LIMIT).tobytes() == RED.tobytes()


@pytest.mark.parametrize(
    "text", ["", "zz", "!!!notb64", "aGVsbG8=", "data:image/png;base64,xxxx", "data:image/png", "é", 5, None]
)
def test_what_is_no_picture_is_refused(text: object) -> None:
    with pytest.raises(InvalidField, match="Invalid encoded image") as caught:
        decode(text, "init_images", LIMIT)
    assert caught.value.field == "init_images"


def test_a_cut_off_file_is_refused() -> None:
    whole = base64.b64decode(text_of(Image.effect_noise((64, 64), 50)))
    with pytest.raises(InvalidField, match="Invalid encoded image"):
        decode(base64.b64encode(whole[: len(whole) // 2]).decode(), "mask", LIMIT)


@pytest.mark.parametrize("text", ["http://localhost/a.png", "HTTPS://example.com/a.png"])
def test_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="base64"):
        decode(text, "init_images", LIMIT)


def test_formats_that_run_other_programs_are_not_read() -> None:
    with pytest.raises(InvalidField):
        decode(text_of(RED, "EPS"), "mask", LIMIT)


def test_size_limit_counts_pixels() -> None:
    assert decode(text_of(Image.new("L", (100, 100))), "mask", LIMIT).size == (100, 100)
    with pytest.raises(InvalidField, match="10000 pixels"):
        decode(text_of(Image.new("L", (100, 101))), "mask", LIMIT)


def test_huge_sizes_are_refused_before_they_are_unpacked() -> None:
    header = b"P5 200000 200000 255 "
    with pytest.raises(InvalidField, match="too large"):
        decode(base64.b64encode(header).decode(), "mask", LIMIT)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    image = decode(text_of(RED, "JPEG", exif=exif), "mask", LIMIT)
    assert image.size == (2, 4)


def test_palette_with_a_table_of_transparency_becomes_rgba() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    image = decode(text_of(palette, transparency=bytes([0, 200])), "mask", LIMIT)
    assert image.mode == "RGBA"
    assert image.tobytes() == bytes([255, 0, 0, 0, 0, 255, 0, 200])


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.new("RGBA", (2, 2)), "RGBA"),
        (Image.new("L", (2, 2)), "L"),
        (Image.new("P", (2, 2)), "P"),
        (Image.new("1", (2, 2)), "1"),
        (Image.new("I;16", (2, 2)), "RGB"),
    ],
)
def test_other_modes_are_kept_where_everything_can_be_done_with_them(image: Image.Image, mode: str) -> None:
    assert decode(text_of(image), "mask", LIMIT).mode == mode
