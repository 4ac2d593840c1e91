"""OpenAI's multipart forms."""

import re
from typing import Final

import orjson
from starlette.datastructures import UploadFile
from starlette.requests import Request as HttpRequest

from sdserver.api.openai.requests import Uploads
from sdserver.errors import InvalidField

MAX_IMAGES: Final = 16
MAX_FIELDS: Final = 100
MAX_TEXT: Final = 1_000_000
_IMAGE = re.compile(r"image(\[[0-9]{0,4}\])?")
_LISTED: Final = frozenset({"override_settings", "alwayson_scripts", "script_args", "styles", "comments"})
"""Fields of ours that a form holds as JSON."""


async def form_of(http: HttpRequest) -> tuple[dict[str, object], Uploads]:
    """A form's fields and files.

    Raises:
        InvalidField: a field has the wrong kind, or there is no picture.
        HTTPException: 400, it is no form, or has too many parts.
    """
    if not http.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise InvalidField("image", "Send the picture as a file in multipart/form-data.")
    images: list[bytes] = []
    mask = None
    fields: dict[str, object] = {}
    async with http.form(max_files=MAX_IMAGES + 1, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT) as form:
        for name, value in form.multi_items():
            if _IMAGE.fullmatch(name):
                images.append(await _file(name, value))
            elif name == "mask":
                mask = await _file(name, value)
            elif isinstance(value, UploadFile):
                raise InvalidField(name, f"The field {name[:100]!r} must be text, not a file.")
            else:
                fields[name] = _json(name, value) if name in _LISTED else value
    if not images:
        raise InvalidField("image", "The field 'image' is missing: send a picture as a file.")
    if len(images) > MAX_IMAGES:
        raise InvalidField("image", f"At most {MAX_IMAGES} pictures are taken at once.")
    return fields, Uploads(tuple(images), mask)


async def _file(name: str, value: UploadFile | str) -> bytes:
    if not isinstance(value, UploadFile):
        raise InvalidField(name, f"The field {name!r} must be a file.")
    return await value.read()


def _json(name: str, text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidField(name, f"The field {name!r} must be JSON in a form.") from None
