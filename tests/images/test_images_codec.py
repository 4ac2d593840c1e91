"""Pictures survive encoding, and the infotext stands where AUTOMATIC1111's readers look."""

import base64
import binascii
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdserver.errors import InvalidField, RequestError
from sdserver.images.codec import FORMATS, PictureFormat, encode, fitting_format, to_base64
from sdserver.images.copies import small_copy
from sdserver.images.decode import file_bytes
from sdserver.jobs.events import Picture

TEXT = "a cat\nNegative prompt: dog\nSteps: 6, Sampler: Euler"


def picture(width: int = 24, height: int = 16) -> Picture:
    pixels = bytes(
        (x * 7 + y * 3 + c * 50) % 256 for y in range(height) for x in range(width) for c in range(3)
    )
    return Picture(width, height, pixels)


def chunks(png: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        found[png[at + 4 : at + 8]] = png[at + 8 : at + 8 + size]
        at += 12 + size
    return found


def test_png_is_lossless() -> None:
    image = Image.open(io.BytesIO(encode(picture(), "png", TEXT)))
    assert image.mode == "RGB"
    assert (image.width, image.height) == (24, 16)
    assert image.tobytes() == picture().pixels


def test_png_text_is_latin1_where_it_fits() -> None:
    assert chunks(encode(picture(), "png", "ñandú"))[b"tEXt"] == b"parameters\0" + "ñandú".encode("latin-1")


def test_png_text_is_international_otherwise() -> None:
    data = encode(picture(), "png", "猫 🐱")
    assert chunks(data)[b"iTXt"] == b"parameters\0\0\0\0\0" + "猫 🐱".encode()
    assert b"tEXt" not in chunks(data)


def test_without_infotext_there_is_no_text_chunk() -> None:
    assert set(chunks(encode(picture(), "png"))) == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize("picture_format", ["jpg", "jpeg", "webp", "avif"])
def test_exif_comment_is_utf16_big_endian(picture_format: PictureFormat) -> None:
    image = Image.open(io.BytesIO(encode(picture(), picture_format, "猫\n🐱")))
    assert image.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + "猫\n🐱".encode("utf-16-be")
    assert image.format == {"webp": "WEBP", "avif": "AVIF"}.get(picture_format, "JPEG")


def test_a_jpeg_comment_is_cut_at_a_whole_character() -> None:
    image = Image.open(io.BytesIO(encode(picture(), "jpg", "x" + "🐱" * 40_000)))
    comment = image.getexif().get_ifd(0x8769)[0x9286].removeprefix(b"UNICODE\0").decode("utf-16-be")
    assert comment.startswith("x🐱")
    assert 16_000 < len(comment) < 16_300


def test_lossless_webp_keeps_every_value() -> None:
    image = Image.open(io.BytesIO(encode(picture(), "webp", None, lossless=True)))
    assert image.convert("RGB").tobytes() == picture().pixels


@pytest.mark.parametrize("picture_format", ["jpg", "webp", "avif"])
def test_quality_changes_the_size(picture_format: PictureFormat) -> None:
    fine, coarse = (len(encode(picture(64, 64), picture_format, quality=each)) for each in (95, 20))
    assert fine > coarse


def test_base64_has_no_prefix_and_no_line_ends() -> None:
    data = bytes(range(256)) * 40
    assert base64.b64decode(to_base64(data), validate=True) == data
    assert "\n" not in to_base64(data)


@given(st.text("QUJD+/=- \n猫", max_size=12))
def test_base64_is_read_as_leniently_as_python_reads_it(text: str) -> None:
    """Whatever is skipped or refused by Python's reader is so by ours."""
    try:
        expected = binascii.a2b_base64(text.strip())
    except ValueError:
        with pytest.raises(InvalidField):
            file_bytes(text, "image")
    else:
        assert file_bytes(text, "image") == expected


def test_formats_are_the_four_of_the_api_and_avif() -> None:
    assert FORMATS == ("png", "jpg", "jpeg", "webp", "avif")


@pytest.mark.parametrize(
    ("picture_format", "width"), [("webp", 16_384), ("jpg", 65_501), ("jpeg", 65_501), ("avif", 65_536)]
)
def test_what_a_format_cannot_hold_is_refused(picture_format: PictureFormat, width: int) -> None:
    wide = Image.new("RGB", (width, 1))
    with pytest.raises(RequestError, match="choose png"):
        encode(wide, picture_format)
    assert encode(wide.crop((0, 0, width - 1, 1)), picture_format)
    assert encode(wide, "png")
    assert fitting_format(picture_format, width, 1) == fitting_format(picture_format, 1, width) == "png"
    assert fitting_format(picture_format, width - 1, 1) == picture_format


@pytest.mark.parametrize(
    ("size", "file_size", "copied"),
    [
        ((40, 30), 4 * 2**20, None),
        ((40, 30), 4 * 2**20 + 1, (40, 30)),
        ((41, 10), 0, (40, 10)),
        ((10, 80), 0, (5, 40)),
        ((400, 1), 0, (40, 1)),
    ],
)
def test_copies_of_large_pictures(
    size: tuple[int, int], file_size: int, copied: tuple[int, int] | None
) -> None:
    made = small_copy(picture(*size), file_size, TEXT, threshold=4, side=40, quality=80)
    if copied is None:
        assert made is None
    else:
        assert made is not None
        image = Image.open(io.BytesIO(made))
        assert (image.format, image.size) == ("JPEG", copied)
        assert image.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + TEXT.encode("utf-16-be")
