"""The texts inside a picture file: AUTOMATIC1111's infotext, and what else its chunks say."""

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import IFD

from sdserver.images.codec import INFOTEXT_KEY, USER_COMMENT

MAX_PIXELS: Final = 2**26
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")

LONGEST_KEYWORD: Final = 79
LATIN_1: Final = 256

_NO_ITEMS: Final = frozenset(
    {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "dpi",
        "exif",
        "loop",
        "background",
        "timestamp",
        "duration",
        "progressive",
        "progression",
        "icc_profile",
        "chromaticity",
        "photoshop",
        "transparency",
    }
)
_ENCODINGS: Final[Mapping[bytes, str]] = {
    b"ASCII\0\0\0": "ascii",
    b"JIS\0\0\0\0\0": "shift_jis",
    b"UNICODE\0": "utf-16-be",
}
_PREFIX = 8
_DAMAGED: Final = (
    OSError,
    EOFError,
    SyntaxError,
    struct.error,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
)
"""What Pillow raises at damaged files, beside ValueError."""

Item = str | int | float


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a picture says beside its pixels.

    Attributes:
        infotext: None if there is none.
        items: the other texts and numbers.
        width, height: of the picture.
    """

    infotext: str | None
    items: Mapping[str, Item]
    width: int
    height: int


def read_metadata(data: bytes) -> Metadata:
    """Read a picture file's texts. A comment in EXIF goes before the text chunk `parameters`.

    Raises:
        ValueError: it is no picture, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"the picture has more than {MAX_PIXELS} pixels")
            if image.format == "PNG":
                image.load()  # texts may stand behind the pixels
            infotext = _infotext(image)
            return Metadata(infotext, _items(image), image.width, image.height)
    except (UnidentifiedImageError, Image.DecompressionBombError, *_DAMAGED) as error:
        raise ValueError("the picture cannot be read") from error


def carried_texts(image: Image.Image) -> dict[str, str]:
    """The texts of a loaded picture that its copies keep, by PNG keyword, the infotext among them.

    They are none of our own: what no PNG can hold is left out.
    """
    texts = {
        key: str(value)
        for key, value in image.info.items()
        if isinstance(key, str) and isinstance(value, str) and key not in _NO_ITEMS and _is_keyword(key)
    }
    infotext = _infotext(image)
    if infotext:
        texts[INFOTEXT_KEY] = infotext
    return {key: text for key, text in texts.items() if _is_encodable(text)}


def _is_keyword(key: str) -> bool:
    """As the PNG specification has it; a NUL would end it."""
    return 0 < len(key) <= LONGEST_KEYWORD and key.isprintable() and all(ord(char) < LATIN_1 for char in key)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _infotext(image: Image.Image) -> str | None:
    if "exif" in image.info:
        comment = _exif_comment(image)
        text = _comment(comment) if isinstance(comment, bytes) else str(comment)
        if text:
            return text
    elif "comment" in image.info:
        comment = image.info["comment"]
        return comment.decode("utf-8", "ignore") if isinstance(comment, bytes) else str(comment)
    found = image.info.get(INFOTEXT_KEY)
    return str(found) if isinstance(found, str) else None


def _exif_comment(image: Image.Image) -> object:
    try:
        return image.getexif().get_ifd(IFD.Exif).get(USER_COMMENT, b"")
    except (ValueError, *_DAMAGED):
        return b""  # damaged EXIF says nothing; the picture may still have other texts


def _comment(data: bytes) -> str:
    encoding = _ENCODINGS.get(data[:_PREFIX])
    if encoding is None:
        return data.decode("utf-8", "ignore").strip("\0")
    return data[_PREFIX:].decode(encoding, "replace")


def _items(image: Image.Image) -> dict[str, Item]:
    found = {str(key): value for key, value in image.info.items() if key not in _NO_ITEMS}
    found.pop(INFOTEXT_KEY, None)
    items: dict[str, Item] = {}
    for key, value in found.items():
        match value:
            case bytes():
                items[key] = value.decode("utf-8", "ignore")
            case str():
                items[key] = str(value)
            case int():
                items[key] = value
            case float() if math.isfinite(value):
                items[key] = value
    return items
