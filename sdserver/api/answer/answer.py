"""What a request is answered with, before it takes the shape that a route gives it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sdserver.images.codec import PictureFormat, to_base64

MAX_HEADER = 1000
MEDIA_TYPES: Final[Mapping[str, str]] = {"jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as a file."""

    data: bytes
    picture_format: PictureFormat

    @property
    def media_type(self) -> str:
        """As HTTP names the format."""
        return MEDIA_TYPES.get(self.picture_format, f"image/{self.picture_format}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished txt2img or img2img request.

    Attributes:
        pictures: in the order of `images`; none if they were not to be sent.
        parameters: the request with its defaults.
        info: AUTOMATIC1111's `info`.
        save_error: why pictures could not be saved, None if they could.
        missing: networks that the prompts name and that there are not.
        told_bytes: of parameters and info, about; see `weight`.
        upload_error: why saved pictures will not be uploaded, None if they will.
    """

    pictures: tuple[Encoded, ...]
    parameters: Mapping[str, Any]
    info: Mapping[str, Any]
    save_error: str | None = None
    missing: tuple[str, ...] = ()
    told_bytes: int = 0
    upload_error: str | None = None

    @property
    def samples(self) -> tuple[Encoded, ...]:
        """The pictures without the grid."""
        return self.pictures[int(self.info["index_of_first_image"]) :]

    @property
    def size(self) -> int:
        """Bytes that keeping it takes, about."""
        return sum(len(picture.data) for picture in self.pictures) + self.told_bytes

    @property
    def headers(self) -> dict[str, str]:
        """What is told beside the body."""
        told = {
            "X-Save-Error": self.save_error,
            "X-Upload-Error": self.upload_error,
            "X-Missing-Networks": ", ".join(self.missing),
        }
        return {key: header_text(text) for key, text in told.items() if text}

    def body(self) -> bytes:
        """AUTOMATIC1111's answer as JSON. Takes time: call it in a worker thread."""
        images = [to_base64(picture.data) for picture in self.pictures]
        info = json.dumps(self.info)
        return orjson.dumps({"images": images, "parameters": self.parameters, "info": info})


def weight(*parts: Mapping[str, Any]) -> int:
    """Bytes that parameters and info take, about. Takes time: call it in a worker thread."""
    return sum(len(orjson.dumps(part)) for part in parts)


def header_text(text: str) -> str:
    """Text as a header may hold it."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:MAX_HEADER]
