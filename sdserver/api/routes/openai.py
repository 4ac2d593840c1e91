"""Images and models as OpenAI's clients ask for them."""

import asyncio
import hashlib
import secrets
import time
from pathlib import Path
from typing import Any, Final, cast

import orjson
from fastapi import APIRouter, HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sdserver.api.answer.answer import Answer, Encoded
from sdserver.api.begin import begin_work, kind_of, result_or_left
from sdserver.api.errors import JsonResponse
from sdserver.api.middleware import CLIENT_LEFT
from sdserver.api.openai.fields import (
    FORMATS,
    ImageEdit,
    ImageFields,
    ImageGeneration,
    Images,
    ImageVariation,
    Model,
    Models,
    parsed,
    schema_of_form,
)
from sdserver.api.openai.form import form_of
from sdserver.api.openai.requests import edit, generation
from sdserver.api.openai.route import OpenAIRoute
from sdserver.api.requests import Request
from sdserver.api.services import Services
from sdserver.catalog.checkpoint import Checkpoint
from sdserver.images.codec import to_base64

FILES: Final = "/v1/images/files"


def openai_routes(services: Services) -> APIRouter:
    """/v1/models and /v1/images."""
    router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)

    @router.get("/models", response_model=Models)
    async def models() -> JsonResponse:
        """Every checkpoint."""
        found = await asyncio.gather(*(_model(services, each) for each in services.catalog.all()))
        return JsonResponse({"object": "list", "data": found})

    @router.get("/models/{model:path}", response_model=Model)
    async def model(model: str) -> JsonResponse:
        """One checkpoint, by any of its names."""
        return JsonResponse(await _model(services, services.catalog.find(model)))

    @router.post("/images/generations", response_model=Images)
    async def generations(body: ImageGeneration, http: HttpRequest) -> Response:
        """Make pictures from text."""
        return await _made(services, http, body, generation(services, body))

    @router.post("/images/edits", response_model=Images, openapi_extra=_form(ImageEdit, mask=False))
    async def edits(http: HttpRequest) -> Response:
        """Make pictures from pictures and text; what is transparent in the mask is painted."""
        return await _edited(services, http, ImageEdit)

    @router.post("/images/variations", response_model=Images, openapi_extra=_form(ImageVariation))
    async def variations(http: HttpRequest) -> Response:
        """Make pictures that resemble one."""
        return await _edited(services, http, ImageVariation)

    @router.get("/images/files/{name}", response_class=Response)
    async def file(name: str) -> Response:
        """A picture that was answered as an address."""
        picture = services.board.shelf.get((FILES, name))
        if not isinstance(picture, Encoded):
            raise HTTPException(404, "There is no such picture, or it is not kept any more.")
        return Response(picture.data, media_type=picture.media_type, headers={"Cache-Control": "private"})

    return router


async def _model(services: Services, checkpoint: Checkpoint) -> dict[str, Any]:
    created = await services.in_thread(lambda: _modified(checkpoint.filename))
    return {"id": checkpoint.model_name, "object": "model", "created": created, "owned_by": "sdserver"}


def _modified(filename: str) -> int:
    try:
        return int(Path(filename).stat().st_mtime)
    except OSError:
        return 0


async def _edited(
    services: Services, http: HttpRequest, kind: type[ImageEdit] | type[ImageVariation]
) -> Response:
    fields, uploads = await form_of(http)
    asked = parsed(kind, fields)
    request = await services.in_thread(lambda: edit(services, asked, uploads))
    # A repeated form has another boundary, so its bytes do not tell that it is the same.
    digest = hashlib.sha256(repr(sorted(fields.items())).encode())
    for data in (*uploads.images, uploads.mask or b""):
        digest.update(hashlib.sha256(data).digest())
    return await _made(services, http, asked, request, digest.digest())


async def _made(
    services: Services, http: HttpRequest, asked: ImageFields, request: Request, content: bytes | None = None
) -> Response:
    entry = begin_work(
        services,
        kind_of(request),
        request.force_task_id,
        http,
        lambda work: work.answer(request),
        content=content,
    )
    result = await result_or_left(services, entry, http)
    if result is None:
        return Response(status_code=CLIENT_LEFT)
    answer = cast(Answer, result)
    items = [_linked(services, http, one) for one in answer.samples] if asked.is_linked else None
    body = await services.in_thread(lambda: _body(asked, request, answer, items))
    return JsonResponse(body, headers=result.headers)


def _linked(services: Services, http: HttpRequest, picture: Encoded) -> str:
    """Keep the picture; its address."""
    extension = "jpg" if picture.picture_format == "jpeg" else picture.picture_format
    name = f"{secrets.token_urlsafe(24)}.{extension}"
    services.board.shelf.put((FILES, name), picture, len(picture.data))
    return f"{http.base_url}{FILES.lstrip('/')}/{name}"


def _body(asked: ImageFields, request: Request, answer: Answer, links: list[str] | None) -> bytes:
    seeds = answer.info["all_seeds"]
    pictures = links or [to_base64(picture.data) for picture in answer.samples]
    key = "b64_json" if links is None else "url"
    data = [
        {key: picture, "seed": seeds[min(place, len(seeds) - 1)]} for place, picture in enumerate(pictures)
    ]
    return orjson.dumps(
        {
            "created": int(time.time()),
            "data": data,
            "background": "opaque",
            "output_format": _format(answer, asked),
            "size": f"{request.width}x{request.height}",
        }
    )


def _format(answer: Answer, asked: ImageFields) -> str:
    """The pictures' format by OpenAI's name."""
    known = {ours: theirs for theirs, ours in FORMATS.items()}
    names = [known.get(picture.picture_format, picture.picture_format) for picture in answer.samples]
    return next(iter(names), asked.output_format or "png")


def _form(model: type[ImageEdit] | type[ImageVariation], **files: bool) -> dict[str, Any]:
    schema = schema_of_form(model, {"image": True, **files})
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
