"""What `POST /v1/jobs` takes: a kind, and the body of the route of that name."""

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sdserver.api.entry import EntryKind, Result
from sdserver.api.extras.request import ExtrasBatchImagesRequest, ExtrasRequest, ExtrasSingleImageRequest
from sdserver.api.extras.work import extras_work
from sdserver.api.requests import Img2ImgRequest, Request, Txt2ImgRequest
from sdserver.api.wire import JsonDict, Str
from sdserver.api.work import Work
from sdserver.errors import InvalidField

M = TypeVar("M", bound=BaseModel)

EXTRAS: Final = "extras"
KINDS: Final = ("txt2img", "img2img", "extra-single-image", "extra-batch-images", EXTRAS)
ENTRY_KINDS: Final[Mapping[str, EntryKind]] = {
    "txt2img": "txt2img",
    "img2img": "img2img",
    "extra-single-image": "extras",
    "extra-batch-images": "extras",
    EXTRAS: "extras",
}
"""What requests of these kinds are called on the board."""

LISTED_KINDS: Final[Mapping[str, EntryKind]] = {**ENTRY_KINDS, "interrogate": "interrogate"}
"""The same of those that are listed; requests of other routes are, too."""


class JobRequest(BaseModel):
    """POST /v1/jobs; the fields of the route that `kind` names stand beside these, or in `request`."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    kind: Str = Field(
        description="txt2img, img2img, extra-single-image, extra-batch-images, or extras for either"
    )
    request: JsonDict | None = Field(None, description="the body of the route of that name")
    webhook: Str | None = Field(None, description="an address that is told when the job ends")
    force_task_id: Str | None = Field(None, description="the job's id; a random one without")

    @model_validator(mode="before")
    @classmethod
    def null_is_default(cls, body: object) -> object:
        """Drop nulls, so that the defaults stand."""
        if isinstance(body, dict):
            return {key: value for key, value in body.items() if value is not None}
        return body


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job is to do.

    Attributes:
        kind: what it is called on the board.
        wanted_id: what its client wants it to be known by.
        webhook: an address that is told when it ends, None for none.
        body: the request.
    """

    kind: EntryKind
    wanted_id: str | None
    webhook: str | None
    body: Request | ExtrasRequest

    def work(self, work: Work) -> Coroutine[Any, Any, Result]:
        """Do it."""
        if isinstance(self.body, ExtrasRequest):
            return extras_work(work, self.body)
        return work.answer(self.body)


def asked_for(job: JobRequest) -> Asked:
    """The request inside a job's.

    Raises:
        InvalidField: there is no such kind.
        RequestValidationError: the request is not one of that kind.
        HTTPException: 404, img2img without a picture, as the route.
    """
    if job.kind not in ENTRY_KINDS:
        raise InvalidField("kind", f"'kind' must be one of {', '.join(KINDS)}.")
    fields = dict(job.request if job.request is not None else job.model_extra or {})
    if job.force_task_id:
        fields["force_task_id"] = job.force_task_id
    body = _body(job.kind, fields)
    if isinstance(body, Img2ImgRequest) and not body.init_images:
        raise HTTPException(404, "Init image not found")
    wanted_id = getattr(body, "force_task_id", job.force_task_id)
    return Asked(ENTRY_KINDS[job.kind], wanted_id, job.webhook, body)


def _body(kind: str, fields: Mapping[str, object]) -> Request | ExtrasRequest:
    if kind == "txt2img":
        return _parsed(Txt2ImgRequest, fields)
    if kind == "img2img":
        return _parsed(Img2ImgRequest, fields)
    if kind == "extra-batch-images" or (kind == EXTRAS and "imageList" in fields):
        return _parsed(ExtrasBatchImagesRequest, fields)
    return _parsed(ExtrasSingleImageRequest, fields)


def _parsed(model: type[M], fields: Mapping[str, object]) -> M:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in told]) from None
