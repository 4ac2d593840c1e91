"""Writing a run's pictures to disk: their files, copies of large ones, what clients sent, the history."""

import hashlib
import logging
import math
from dataclasses import dataclass, field
from typing import cast

from PIL import Image

from sdserver.api.options import Snapshot
from sdserver.api.requests import Img2ImgRequest
from sdserver.api.saving import init_rules
from sdserver.api.translate.plan import Plan
from sdserver.images.codec import PictureFormat, encode, fitting_format
from sdserver.images.copies import small_copy
from sdserver.images.decode import decode
from sdserver.images.files import Saver, SaveRules
from sdserver.images.naming import NameFacts
from sdserver.jobs.events import Picture

log = logging.getLogger(__name__)

JPEG = frozenset({"jpg", "jpeg"})
ANY_SIZE = 2**62
"""In pixels: for pictures that were checked when the request was resolved."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A picture of the answer with its infotext, None for masks.

    Attributes:
        files: the picture's file by format, where it was encoded already.
    """

    picture: Picture | Image.Image
    text: str | None
    files: dict[str, bytes] = field(default_factory=dict)


def file_of(one: Told, picture_format: str, options: Snapshot) -> bytes:
    """The picture's file, encoded once per format.

    Raises:
        RequestError: the picture is too large for the format.
    """
    if picture_format not in one.files:
        one.files[picture_format] = encode(
            one.picture,
            cast(PictureFormat, picture_format),
            one.text if options.flag("enable_pnginfo") else None,
            quality=_quality(options),
            lossless=options.flag("webp_lossless"),
        )
    return one.files[picture_format]


def keep(
    one: Told,
    wanted: str,
    rules: SaveRules,
    names: NameFacts,
    options: Snapshot,
    saver: Saver,
    problems: list[str],
) -> None:
    """Save a picture, as PNG where it is too large for the wanted format, with a copy if it is large.

    Args:
        one: the picture.
        wanted: the format.
        rules: where it goes.
        names: what its name may tell.
        options: how it is encoded.
        saver: writes the files.
        problems: is given why files will not be uploaded.

    Raises:
        OSError: the disk is full, or writing is not allowed.
        ValueError: the folder lies outside `outputs`.
    """
    picture_format = fitting_format(cast(PictureFormat, wanted), one.picture.width, one.picture.height)
    data = file_of(one, picture_format, options)
    path = saver.save(data, picture_format, rules, names, one.text, problems)
    if picture_format in JPEG or not options.flag("export_for_4chan"):
        return
    copy = small_copy(
        one.picture,
        len(data),
        one.text if options.flag("enable_pnginfo") else None,
        threshold=options.number("img_downscale_threshold"),
        side=options.whole("target_side_length"),
        quality=_quality(options),
    )
    if copy is not None:
        saver.save_copy(path, copy, "jpg", problems)


def keep_inits(plan: Plan, names: NameFacts, saver: Saver, problems: list[str]) -> str | None:
    """Save the pictures that the client sent, if the option `save_init_img` is on.

    Returns:
        What infotexts tell of them: the last one's hash; None where they are not saved.

    Raises:
        OSError: the disk is full, or writing is not allowed.
    """
    options, request = plan.options, plan.request
    if not options.flag("save_init_img") or not isinstance(request, Img2ImgRequest):
        return None
    found = None
    for text in request.init_images or ():
        image = decode(text, "init_images", ANY_SIZE)
        found = hashlib.md5(image.tobytes(), usedforsecurity=False).hexdigest()
        image = image.convert("RGB") if image.mode == "CMYK" else image
        rules = init_rules(plan, found)
        keep(Told(image, None), options.text("samples_format"), rules, names, options, saver, problems)
    return found


def _quality(options: Snapshot) -> int:
    return math.floor(options.number("jpeg_quality"))
