"""The wire: OpenAI's fields for images, and ours beside them."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from sdserver.api.wire import Bool, Int, Str
from sdserver.errors import InvalidField
from sdserver.jobs.job import Size

M = TypeVar("M", bound=BaseModel)

STEPS: Final[Mapping[str, int]] = {
    "low": 10,
    "medium": 20,
    "standard": 20,
    "auto": 20,
    "high": 40,
    "hd": 40,
}
"""By `quality`; the field `steps` beats it."""

FORMATS: Final[Mapping[str, str]] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""Values of `output_format`, and of the option `samples_format` for them."""

OWN_NAMES: Final = ("dall-e", "gpt-image", "chatgpt-image")
"""What OpenAI's own models begin with: they stand for the chosen checkpoint."""

LINKING_NAMES: Final = "dall-e"
"""Models that answer with addresses unless they are told otherwise."""

AUTO: Final = "auto"
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


class ImageFields(BaseModel):
    """What all three routes take. Fields of txt2img or img2img may stand beside these."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    model: Str | None = Field(None, description="a checkpoint; OpenAI's own names are the chosen one")
    n: Int = Field(1, description="pictures")
    size: Str | None = Field(None, description="WIDTHxHEIGHT, or auto")
    quality: Str | None = Field(None, description="low, medium or high: 10, 20 or 40 steps")
    response_format: Str | None = Field(None, description="b64_json, or url; dall-e models: url")
    output_format: Str | None = Field(None, description="png, jpeg or webp")
    output_compression: Int | None = Field(None, description="quality of jpeg and webp, 0 to 100")
    background: Str | None = Field(None, description="auto or opaque")
    stream: Bool = Field(False, description="must be false")
    partial_images: Int | None = Field(None, description="must be 0")

    @model_validator(mode="before")
    @classmethod
    def null_is_default(cls, body: object) -> object:
        """Drop nulls, so that the defaults stand."""
        if isinstance(body, dict):
            return {key: value for key, value in body.items() if value is not None}
        return body

    @property
    def is_linked(self) -> bool:
        """Whether pictures are answered as addresses."""
        if self.response_format is None:
            return bool(self.model and self.model.startswith(LINKING_NAMES))
        return self.response_format == "url"

    @property
    def wanted_size(self) -> Size | None:
        """The size that was asked for, None for any.

        Raises:
            InvalidField: it is none.
        """
        if self.size in (None, AUTO):
            return None
        found = _SIZE.fullmatch(self.size or "")
        if found is None:
            raise InvalidField("size", "'size' must be WIDTHxHEIGHT in pixels, as 512x512, or auto.")
        return Size(int(found[1]), int(found[2]))

    @property
    def steps(self) -> int:
        """Steps that the quality stands for.

        Raises:
            InvalidField: there is no such quality.
        """
        quality = self.quality or AUTO
        if quality not in STEPS:
            raise InvalidField("quality", f"'quality' must be one of {', '.join(STEPS)}.")
        return STEPS[quality]

    @property
    def overrides(self) -> dict[str, Any]:
        """Options that the fields stand for.

        Raises:
            InvalidField: there is no such format, or the compression is out of range.
        """
        found: dict[str, Any] = {}
        if self.output_format is not None:
            if self.output_format not in FORMATS:
                raise InvalidField("output_format", f"'output_format' must be one of {', '.join(FORMATS)}.")
            found["samples_format"] = FORMATS[self.output_format]
        if self.output_compression is not None:
            if not 0 <= self.output_compression <= 100:
                raise InvalidField("output_compression", "'output_compression' must be from 0 to 100.")
            found["jpeg_quality"] = max(1, self.output_compression)
        return found

    def check(self, max_images: int) -> None:
        """See that what is asked for is served.

        Raises:
            InvalidField: it is not.
        """
        if not 1 <= self.n <= max_images:
            raise InvalidField("n", f"'n' must be from 1 to {max_images}.")
        if self.response_format not in (None, "b64_json", "url"):
            raise InvalidField("response_format", "'response_format' must be b64_json or url.")
        if self.stream or self.partial_images:
            field = "stream" if self.stream else "partial_images"
            message = "Images are not streamed here: leave it out, or use POST /v1/jobs and its events."
            raise InvalidField(field, message)
        if self.background not in (None, AUTO, "opaque"):
            message = "Checkpoints paint no transparency: 'background' must be auto or opaque."
            raise InvalidField("background", message)


class ImageGeneration(ImageFields):
    """POST /v1/images/generations."""

    prompt: Str


class ImageEdit(ImageFields):
    """POST /v1/images/edits, without the files."""

    prompt: Str


class ImageVariation(ImageFields):
    """POST /v1/images/variations, without the file."""


class ImageItem(BaseModel):
    """One picture."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class Images(BaseModel):
    """The answer."""

    created: int = Field(description="seconds since 1970")
    data: list[ImageItem]
    background: str
    output_format: str
    size: str


class Model(BaseModel):
    """A checkpoint."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "sdserver"


class Models(BaseModel):
    """All checkpoints."""

    object: str = "list"
    data: list[Model]


def parsed(model: type[M], fields: Mapping[str, object]) -> M:
    """The fields as a model.

    Raises:
        RequestValidationError: they are none.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in told]) from None


def schema_of_form(model: type[BaseModel], files: Mapping[str, bool]) -> dict[str, JsonValue]:
    """A form's OpenAPI schema.

    Args:
        model: its text fields.
        files: its files, and whether they must be there.
    """
    schema: dict[str, Any] = model.model_json_schema()
    for name in files:
        schema["properties"][name] = {"type": "string", "format": "binary"}
    needed = [name for name, is_needed in files.items() if is_needed]
    schema["required"] = [*schema.get("required", []), *needed]
    return schema
