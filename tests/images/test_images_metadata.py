"""Texts are found wherever programs put them into pictures."""

import io
import struct
import zlib

import pytest
from PIL import Image
from PIL.ExifTags import IFD
from PIL.PngImagePlugin import PngInfo

from sdserver.images.codec import FORMATS, USER_COMMENT, encode
from sdserver.images.metadata import read_metadata
from sdserver.jobs.events import Picture

TEXT = 'a "cat", naïve 猫\nSteps: 5, Sampler: Euler, Seed: 1'


@pytest.mark.parametrize("picture_format", FORMATS)
def test_what_encode_wrote_is_read(picture_format: str) -> None:
    picture = Picture(16, 8, bytes(16 * 8 * 3))
    found = read_metadata(encode(picture, picture_format, TEXT))  # type: ignore[arg-type]
    assert (found.infotext, dict(found.items), found.width, found.height) == (TEXT, {}, 16, 8)
    assert read_metadata(encode(picture, picture_format)).infotext is None  # type: ignore[arg-type]


def jpeg(comment: bytes | None = None, plain: bytes | None = None) -> bytes:
    image, buffer, exif = Image.new("RGB", (8, 8)), io.BytesIO(), Image.Exif()
    if comment is not None:
        exif.get_ifd(IFD.Exif)[USER_COMMENT] = comment
        image.save(buffer, "JPEG", exif=exif)
    else:
        image.save(buffer, "JPEG", comment=plain or b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        (b"ASCII\0\0\0a cat", "a cat"),
        (b"UNICODE\0" + "猫".encode("utf-16-be"), "猫"),
        (b"\0\0\0\0\0\0\0\0a cat", "a cat"),
        ("a 猫".encode(), "a 猫"),
        (b"UNICODE\0\xd8", "\ufffd"),
        (b"a\xff\xfe", "a"),
        (b"", None),
    ],
)
def test_comments_of_exif(comment: bytes, expected: str | None) -> None:
    assert read_metadata(jpeg(comment)).infotext == expected


def test_the_plain_comment_of_a_jpeg_counts_where_there_is_no_exif() -> None:
    assert read_metadata(jpeg(plain=b"a cat\xff")).infotext == "a cat"


def test_texts_behind_the_pixels_are_found() -> None:
    whole = encode(Picture(16, 8, bytes(16 * 8 * 3)), "png", TEXT)
    content = b"tEXtnote\0x"
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    end = whole.rindex(b"IEND") - 4
    found = read_metadata(whole[:end] + chunk + whole[end:])
    assert (found.infotext, dict(found.items)) == (TEXT, {"note": "x"})


def test_items_hold_no_facts_of_the_format() -> None:
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "PNG", dpi=(72, 72), transparency=0)
    assert dict(read_metadata(buffer.getvalue()).items) == {}


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 100, b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_metadata(data)


def test_damaged_pictures_are_refused() -> None:
    whole = encode(Picture(64, 64, bytes(range(256)) * 48), "png", TEXT)
    with pytest.raises(ValueError, match="cannot be read"):
        read_metadata(whole[: len(whole) // 2])


def test_a_text_that_unpacks_to_too_much_is_refused() -> None:
    info = PngInfo()
    info.add_itxt("parameters", "a" * 2**23, zip=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    with pytest.raises(ValueError, match=r"cannot be read|too large"):
        read_metadata(buffer.getvalue())
