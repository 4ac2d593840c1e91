"""Pictures as clients send them."""

import base64
import copy
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from sdserver.errors import InvalidField
from sdserver.images.decode import FetchedPicture, decode

LIMIT = 10_000


def text_of(image: Image.Image, picture_format: str = "PNG", **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


RED = Image.new("RGB", (4, 2), "#ff0000")


@pytest.mark.parametrize(
    "prefix",
    ["", "data:image/png;base64,", "data:image/webp;charset=utf-8;base64,", " \ndata:image/png;base64,"],
)
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


def header_only(picture_format: str, side: int = 50_000) -> bytes:
    """A small file of that format whose header promises a picture of side x side pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "#ff0000").save(buffer, picture_format)
    data = bytearray(buffer.getvalue())
    match picture_format:
        case "PNG":
            data[16:24] = struct.pack(">II", side, side)
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        case "JPEG":
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = struct.pack(">HH", side, side)
        case "GIF":
            data[6:10] = struct.pack("<HH", side, side)
        case "TIFF":
            for tag in (256, 257):
                at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
                data[at : at + 4] = struct.pack("<I", side)
        case "AVIF":
            at = data.index(b"ispe") + 8
            data[at : at + 8] = struct.pack(">II", side, side)
        case "WEBP":
            # An extended header with a canvas of its own; 16,384 is the most that the format allows.
            canvas = struct.pack("<I", min(side, 16_384) - 1)[:3] * 2
            chunk = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + canvas
            anim = b"ANIM" + struct.pack("<I", 6) + bytes(6)
            frame = bytes(6) + struct.pack("<I", 15)[:3] * 2 + bytes(4) + bytes(data[12:])
            body = chunk + anim + b"ANMF" + struct.pack("<I", len(frame)) + frame
            data = bytearray(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body)
    return bytes(data)


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"])
def test_a_bomb_is_refused_by_its_header(picture_format: str) -> None:
    data = header_only(picture_format)
    assert len(data) < 2000
    # AVIF's library refuses such sizes itself.
    sentence = "Invalid encoded image" if picture_format == "AVIF" else "too large"
    with pytest.raises(InvalidField, match=sentence):
        decode(base64.b64encode(data).decode(), "mask", 64_000_000)


def test_the_bombs_are_pictures_when_they_promise_what_they_have() -> None:
    for picture_format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF"):
        image = decode(base64.b64encode(header_only(picture_format, 16)).decode(), "mask", LIMIT)
        assert image.size == (16, 16), picture_format


def test_a_picture_that_holds_a_larger_one_is_not_read() -> None:
    with pytest.raises(InvalidField, match="Invalid encoded image"):
        decode(text_of(Image.new("RGB", (16, 16)), "ICO"), "mask", LIMIT)


@pytest.mark.parametrize("picture_format", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled(picture_format: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65_535]], dtype=np.uint16)
    image = decode(text_of(Image.fromarray(values), picture_format), "init_images", LIMIT)
    assert image.mode == "RGB"
    assert list(image.tobytes()[::3]) == [0, 1, 128, 255]


def test_a_fetched_picture_is_read_from_its_file() -> None:
    fetched = FetchedPicture.of("https://example.com/a.png", base64.b64decode(text_of(RED)))
    assert decode(fetched, "mask", LIMIT).tobytes() == RED.tobytes()
    assert fetched == "https://example.com/a.png"
    assert copy.deepcopy(fetched).data == fetched.data


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
