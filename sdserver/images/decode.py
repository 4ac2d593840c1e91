"""Pictures as clients send them: base64 text, with or without a data URI around it."""

import binascii
import io
import struct
from typing import Final

from PIL import Image, ImageOps

from sdserver.errors import InvalidField

FORMATS: Final = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000",
)  # fmt: skip
"""What is read. Pillow knows more, some of them run other programs (EPS) or are rarely tested."""

KEPT_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"})
"""Others are rare, and not all that is done with pictures is possible in them: they become RGB."""

INVALID: Final = "Invalid encoded image"
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, struct.error)


def decode(text: object, field: str, max_pixels: int) -> Image.Image:
    """Read a picture the way AUTOMATIC1111 does.

    Characters that are not base64's are skipped. The EXIF orientation is applied, and a PNG whose
    transparency is a table of bytes becomes RGBA; otherwise the mode is the file's own.

    Args:
        text: raw base64, or `data:image/...,` and base64.
        field: the request's field, for the error.
        max_pixels: refuse larger pictures, before their pixels are unpacked.

    Raises:
        InvalidField: not a picture, too large, or an address instead of a picture.
    """
    if not isinstance(text, str):
        raise InvalidField(field, f"{INVALID}: a picture is sent as base64 text.")
    if text[:8].lower().startswith(("http://", "https://")):
        raise InvalidField(field, "Pictures are not fetched by address: send the picture itself as base64.")
    return read(_bytes(text, field), field, max_pixels)


def read(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Read a picture file's bytes, as `decode` does."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise _too_large(field, max_pixels)
        image.load()
        image = _with_alpha(_upright(image))
        return image if image.mode in KEPT_MODES else image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise _too_large(field, max_pixels) from error
    except _BROKEN as error:
        raise InvalidField(field, INVALID) from error


def _bytes(text: str, field: str) -> bytes:
    if text.startswith("data:"):
        _, comma, text = text.partition(",")
        if not comma:
            raise InvalidField(field, f"{INVALID}: the data URI has no comma.")
    try:
        return binascii.a2b_base64(text)
    except ValueError as error:
        raise InvalidField(field, INVALID) from error


def _too_large(field: str, max_pixels: int) -> InvalidField:
    return InvalidField(field, f"The picture is too large: at most {max_pixels} pixels are allowed.")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; left as it is where these cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "P") and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA")
    return image
