"""Pictures of clients enlarged."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sdserver.api.begin import begin_work, result_or_left
from sdserver.api.errors import JsonResponse
from sdserver.api.extras.request import ExtrasBatchImagesRequest, ExtrasRequest, ExtrasSingleImageRequest
from sdserver.api.extras.work import extras_work
from sdserver.api.json_body import JsonRoute
from sdserver.api.middleware import CLIENT_LEFT
from sdserver.api.routes.generation import TASK_HEADER
from sdserver.api.services import Services


class ExtrasSingleImageResponse(BaseModel):
    """The answer for one picture."""

    html_info: str = Field(description="what was done")
    image: str | None = Field(None, description="raw base64; null if it was interrupted")


class ExtrasBatchImagesResponse(BaseModel):
    """The answer for several pictures."""

    html_info: str = Field(description="what was done to the last one")
    images: list[str] = Field(description="raw base64")


def extras_routes(services: Services) -> APIRouter:
    """extra-single-image and extra-batch-images."""
    router = APIRouter(prefix="/sdapi/v1", tags=["pictures"], route_class=JsonRoute)

    @router.post("/extra-single-image", response_model=ExtrasSingleImageResponse)
    async def extra_single_image(body: ExtrasSingleImageRequest, http: HttpRequest) -> Response:
        """Enlarge a picture. A client that leaves cancels it."""
        return await _enlarge(services, body, http)

    @router.post("/extra-batch-images", response_model=ExtrasBatchImagesResponse)
    async def extra_batch_images(body: ExtrasBatchImagesRequest, http: HttpRequest) -> Response:
        """Enlarge pictures. A client that leaves cancels them."""
        return await _enlarge(services, body, http)

    return router


async def _enlarge(services: Services, body: ExtrasRequest, http: HttpRequest) -> Response:
    entry = begin_work(services, "extras", None, http, lambda work: extras_work(work, body))
    result = await result_or_left(services, entry, http)
    if result is None:
        return Response(status_code=CLIENT_LEFT)
    content = await services.in_thread(result.body)
    return JsonResponse(content, headers={TASK_HEADER: entry.id, **result.headers})
