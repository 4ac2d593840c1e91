"""The JPEG that AUTOMATIC1111 puts beside a large picture."""

from typing import Final

from PIL import Image

from sdserver.images.codec import encode
from sdserver.images.pictures import to_image
from sdserver.jobs.events import Picture

MIB: Final = 2**20


def small_copy(
    picture: Picture | Image.Image,
    file_size: int,
    infotext: str | None,
    *,
    threshold: float,
    side: int,
    quality: int,
) -> bytes | None:
    """The picture as a JPEG whose sides are not too long; None where the file is small enough.

    Args:
        picture: what was saved.
        file_size: of what was saved, in bytes.
        infotext: for the copy, None for none.
        threshold: MiB from which a file is large.
        side: pixels from which a picture is large, and the longer side of its copy.
        quality: 1 to 100.
    """
    longest = max(picture.width, picture.height)
    if longest <= side and file_size <= threshold * MIB:
        return None
    image = to_image(picture) if isinstance(picture, Picture) else picture
    if longest > side:
        size = [max(1, round(each * side / longest)) for each in image.size]
        image = image.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return encode(image, "jpg", infotext, quality=quality)
