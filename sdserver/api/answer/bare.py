"""A picture itself as the answer, for clients that ask for one by `Accept: image/png`."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image

from sdserver.api.answer.answer import Answer, Encoded
from sdserver.api.options import Snapshot
from sdserver.images.codec import FORMATS, PictureFormat, encode
from sdserver.images.metadata import read_metadata

SEED_HEADER: Final = "X-Seed"
ANY: Final = "image/*"
JSON_TYPES: Final = ("application/json", "application/*", "*/*")
MAX_ACCEPT: Final = 2000
_FORMATS: Final[Mapping[str, PictureFormat]] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/jpg": "jpg",
    "image/webp": "webp",
    "image/avif": "avif",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A client wants a picture and no JSON.

    Attributes:
        picture_format: None if any will do.
    """

    picture_format: PictureFormat | None


@dataclass(frozen=True, slots=True)
class Bare:
    """The first image of an answer as a file.

    Attributes:
        headers: those of the answer, and the image's seed.
    """

    picture: Encoded
    headers: Mapping[str, str]


def wanted_picture(accept: str | None) -> Wanted | None:
    """What an `Accept` header says; None if the answer is to be JSON.

    JSON it is unless a kind of picture that can be made is named, and preferred: its quality is above
    JSON's, or equal where JSON is not named but only allowed by `*/*` or `application/*`.
    """
    qualities = _qualities((accept or "")[:MAX_ACCEPT])
    named = {
        kind: quality
        for kind, quality in qualities.items()
        if quality > 0 and (kind == ANY or _FORMATS.get(kind) in FORMATS)
    }
    if not named:
        return None
    best = max(named, key=lambda kind: (named[kind], kind != ANY))
    json = next((qualities[kind] for kind in JSON_TYPES if kind in qualities), 0.0)
    is_json_named = JSON_TYPES[0] in qualities
    if json > named[best] or (is_json_named and json == named[best]):
        return None
    return Wanted(_FORMATS.get(best))


def bare_picture(answer: Answer, wanted: Wanted, options: Snapshot) -> Bare | None:
    """The answer's first image that is no grid. Takes time: call it in a worker thread.

    Args:
        answer: of a finished request.
        wanted: what the client asked for.
        options: say how well it is encoded, where it has another format than the answer.

    Returns:
        None if the answer has no picture: it was stopped before, or none were to be sent.

    Raises:
        RequestError: the picture is too large for the format.
    """
    if not answer.samples:
        return None
    picture = answer.samples[0]
    if wanted.picture_format is not None and _other(wanted.picture_format, picture.picture_format):
        picture = _converted(picture, wanted.picture_format, options)
    return Bare(picture, {**answer.headers, SEED_HEADER: str(answer.info["seed"]), "Vary": "Accept"})


def _other(wanted: PictureFormat, found: PictureFormat) -> bool:
    return wanted != {"jpeg": "jpg"}.get(found, found)


def _converted(picture: Encoded, wanted: PictureFormat, options: Snapshot) -> Encoded:
    data = encode(
        Image.open(io.BytesIO(picture.data)),
        wanted,
        read_metadata(picture.data).infotext,
        quality=math.floor(options.number("jpeg_quality")),
        lossless=options.flag("webp_lossless"),
    )
    return Encoded(data, wanted)


def _qualities(accept: str) -> dict[str, float]:
    """Media types in their order with their `q`, 1 where it is not said or no number."""
    found: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (each.strip().lower() for each in part.split(";"))
        if kind:
            quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
            found[kind] = _number(quality)
    return found


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 1.0
    return min(max(number, 0.0), 1.0) if math.isfinite(number) else 1.0
