"""Pictures as clients send them: base64 text, with or without a data URI around it."""

import binascii
import io
import struct
from typing import Final

import numpy as np
import pybase64
from PIL import Image, ImageOps

from sdserver.errors import InvalidField

FORMATS: Final = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000",
)  # fmt: skip
"""What is read. Pillow knows more; some of them run other programs (EPS), may unpack to more pixels than
their header says (ICO), or are rarely tested."""

KEPT_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"})
"""Others are rare, and not all that is done with pictures is possible in them: they become RGB."""

INVALID: Final = "Invalid encoded image"
NOT_FETCHED: Final = (
    "Pictures are not fetched by address unless the server is started with --image-urls: send the picture "
    "itself as base64."
)
_ADDRESSES: Final = ("http://", "https://")
_DEEP: Final = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})
"""Grey in 16 bits; Pillow would cut values off above 255."""

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, struct.error)


class FetchedPicture(str):
    """The address of a picture with the picture's file, fetched from there; as text it is the address.

    Attributes:
        data: the file.
    """

    __slots__ = ("data",)
    data: bytes

    @classmethod
    def of(cls, address: str, data: bytes) -> "FetchedPicture":
        """The picture at an address."""
        fetched = cls(address)
        fetched.data = data
        return fetched


def is_address(text: object) -> bool:
    """Whether a picture's text says where it is rather than what it is."""
    return isinstance(text, str) and text[:8].lower().startswith(_ADDRESSES)


def decode(text: object, field: str, max_pixels: int) -> Image.Image:
    """Read a picture the way AUTOMATIC1111 does.

    Characters that are not base64's are skipped. The EXIF orientation is applied, and a PNG whose
    transparency is a table of bytes becomes RGBA; otherwise the mode is the file's own.

    Args:
        text: raw base64, `data:image/...,` and base64, or a `FetchedPicture`.
        field: the request's field, for the error.
        max_pixels: refuse larger pictures, before their pixels are unpacked.

    Raises:
        InvalidField: not a picture, too large, or an address whose picture was not fetched.
    """
    return read(file_bytes(text, field), field, max_pixels)


def file_bytes(text: object, field: str) -> bytes:
    """The picture's file; see `decode`.

    Raises:
        InvalidField: it is not base64, or an address whose picture was not fetched.
    """
    if isinstance(text, FetchedPicture):
        return text.data
    if not isinstance(text, str):
        raise InvalidField(field, f"{INVALID}: a picture is sent as base64 text.")
    if is_address(text):
        raise InvalidField(field, NOT_FETCHED)
    return _bytes(text.strip(), field)


def read(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Read a picture file's bytes, as `decode` does."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise _too_large(field, max_pixels)
        image.load()
        image = _with_alpha(_shallow(_upright(image)))
        return image if image.mode in KEPT_MODES else image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(field, max_pixels) from error
    except _BROKEN as error:
        raise InvalidField(field, INVALID) from error


def _bytes(text: str, field: str) -> bytes:
    if text.startswith("data:"):
        _, comma, text = text.partition(",")
        if not comma:
            raise InvalidField(field, f"{INVALID}: the data URI has no comma.")
    try:
        return _from_base64(text)
    except ValueError as error:
        raise InvalidField(field, INVALID) from error


def _from_base64(text: str) -> bytes:
    """The bytes; the fast way where there is nothing to skip."""
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        return binascii.a2b_base64(text)


def _too_large(field: str, max_pixels: int) -> InvalidField:
    return InvalidField(field, f"The picture is too large: at most {max_pixels} pixels are allowed.")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; left as it is where these cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        return image


def _shallow(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as RGB of 8 bits."""
    if image.mode not in _DEEP:
        return image
    values = np.asarray(image).clip(0, 65_535).astype(np.uint16)
    shallow = Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    shallow.info = image.info
    return shallow


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "P") and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA")
    return image
