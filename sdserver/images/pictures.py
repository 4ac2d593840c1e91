"""Pictures of jobs as Pillow's images, and back."""

import hashlib

from PIL import Image

from sdserver.jobs.events import Picture


def to_image(picture: Picture) -> Image.Image:
    """The picture as an RGB image."""
    return Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)


def to_picture(image: Image.Image) -> Picture:
    """The image as a picture; transparency is dropped."""
    return Picture(image.width, image.height, image.convert("RGB").tobytes())


def content_hash(image: Image.Image) -> str:
    """MD5 of a picture's pixels in its own mode, 32 hexadecimal digits.

    AUTOMATIC1111's `Init image hash`, and the name of the file that `save_init_img` writes.
    """
    return hashlib.md5(image.tobytes(), usedforsecurity=False).hexdigest()
