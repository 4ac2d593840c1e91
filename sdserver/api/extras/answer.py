"""What a request for extras is answered with."""

import html
from dataclasses import dataclass

import orjson

from sdserver.api.answer.answer import Encoded
from sdserver.images.codec import to_base64


@dataclass(frozen=True, slots=True)
class ExtrasAnswer:
    """A finished request for extras.

    Attributes:
        pictures: in the request's order, without those that somebody stopped.
        infos: what was done to each.
        is_single: whether the request was for one picture; the body has another shape then.
    """

    pictures: tuple[Encoded, ...]
    infos: tuple[str, ...]
    is_single: bool

    @property
    def html_info(self) -> str:
        """What was done to the last picture, as HTML."""
        return f"<p>{html.escape(self.infos[-1]) if self.infos else ''}</p>"

    @property
    def size(self) -> int:
        """Bytes that keeping it takes, about."""
        return sum(len(picture.data) for picture in self.pictures) + sum(map(len, self.infos))

    @property
    def headers(self) -> dict[str, str]:
        """Nothing is told beside the body."""
        return {}

    def body(self) -> bytes:
        """AUTOMATIC1111's answer as JSON; a single picture that was stopped is null. Takes time: call it
        in a worker thread.
        """
        images = [to_base64(picture.data) for picture in self.pictures]
        if self.is_single:
            return orjson.dumps({"html_info": self.html_info, "image": next(iter(images), None)})
        return orjson.dumps({"html_info": self.html_info, "images": images})
