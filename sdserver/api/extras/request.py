"""The wire: requests for extras, field for field as AUTOMATIC1111 1.10 has them.

Every field but `imageList` is optional, null means its default, unknown ones are ignored.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from sdserver.api import coerce
from sdserver.api.wire import Bool, Float, Int, Str

BY_FACTOR: Final = 0
TO_SIZE: Final = 1
NO_UPSCALER: Final = "None"
MAX_FILES: Final = 1000


def to_mode(value: object) -> int:
    """How the result's size is given, from a number or its text."""
    mode = coerce.to_int(value)
    if mode not in (BY_FACTOR, TO_SIZE):
        message = "unexpected value; permitted: 0, 1"
        given = max(-(2**63), min(mode, 2**63 - 1))
        raise PydanticCustomError("value_error.const", message, {"given": given, "permitted": [0, 1]})
    return mode


Mode = Annotated[Literal[0, 1], BeforeValidator(to_mode)]


class ExtrasFields(BaseModel):
    """What both requests have."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    resize_mode: Mode = Field(0, description="0 by upscaling_resize, 1 to upscaling_resize_w and _h")
    show_extras_results: Bool = Field(True, description="has no effect, as in AUTOMATIC1111")
    gfpgan_visibility: Float = Field(0, ge=0, le=1)
    codeformer_visibility: Float = Field(0, ge=0, le=1)
    codeformer_weight: Float = Field(0, ge=0, le=1)
    upscaling_resize: Float = Field(2, gt=0, description="by how much; the sides become multiples of 8")
    upscaling_resize_w: Int = Field(512, ge=1, description="the result covers this width")
    upscaling_resize_h: Int = Field(512, ge=1, description="and this height")
    upscaling_crop: Bool = Field(True, description="with resize_mode 1, cut off what stands over")
    upscaler_1: Str = Field(NO_UPSCALER, description="None leaves the picture as it is")
    upscaler_2: Str = Field(NO_UPSCALER, description="is laid over the first one's result")
    extras_upscaler_2_visibility: Float = Field(0, ge=0, le=1)
    upscale_first: Bool = Field(False, description="has no effect, as in AUTOMATIC1111")

    @model_validator(mode="before")
    @classmethod
    def null_is_default(cls, body: object) -> object:
        """Drop nulls, so that the defaults stand."""
        if isinstance(body, dict):
            return {key: value for key, value in body.items() if value is not None}
        return body


class ExtrasSingleImageRequest(ExtrasFields):
    """POST /sdapi/v1/extra-single-image."""

    image: Str = Field("", description="base64, also as a data URI")


class FileData(BaseModel):
    """One of several pictures."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    data: Str = Field(description="base64, also as a data URI")
    name: Str = Field(description="is not used")


def to_files(value: object) -> list[object]:
    """A list that is not so long that naming all that is wrong with it would take long."""
    if not isinstance(value, list):
        raise PydanticCustomError("type_error.list", "value is not a valid list")
    if len(value) > MAX_FILES:
        message = f"ensure this value has at most {MAX_FILES} items"
        raise PydanticCustomError("value_error.list.max_items", message)
    return value


Files = Annotated[list[FileData], BeforeValidator(to_files)]


class ExtrasBatchImagesRequest(ExtrasFields):
    """POST /sdapi/v1/extra-batch-images."""

    imageList: Files  # noqa: N815  # as AUTOMATIC1111 calls it


ExtrasRequest = ExtrasSingleImageRequest | ExtrasBatchImagesRequest
